//! Ends the process, naming the test, when a test takes longer than any should: what hangs is a
//! failure that says where, and not a CI that runs out of its time.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// The longest test takes about a minute on an idle machine, and is patient for a quarter of an hour.
const MOST: Duration = Duration::from_mins(20);

static WATCHED: Mutex<BTreeMap<u64, (String, Instant)>> = Mutex::new(BTreeMap::new());

/// While this is held, its test is watched.
pub struct Watched(u64);

impl Watched {
    /// To be called on the test's own thread, whose name is the test's.
    pub fn new() -> Self {
        static BEGIN: Once = Once::new();
        BEGIN.call_once(|| drop(std::thread::spawn(watch)));
        let name = std::thread::current().name().unwrap_or("a thread without a name").to_owned();
        let mut watched = WATCHED.lock().expect("no panic");
        let id = watched.last_key_value().map_or(0, |(last, _)| last + 1);
        watched.insert(id, (name, Instant::now()));
        Self(id)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        WATCHED.lock().expect("no panic").remove(&self.0);
    }
}

#[expect(clippy::exit, reason = "a test that hangs cannot be ended in another way")]
fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(5));
        let watched = WATCHED.lock().expect("no panic");
        if let Some((name, _)) = watched.values().find(|(_, since)| since.elapsed() > MOST) {
            eprintln!("{name} hangs: it has taken more than {MOST:?}");
            std::process::exit(101);
        }
    }
}
