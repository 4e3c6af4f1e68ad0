//! How long a handler may be silent, where it may give signs of life on another way.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::Failure;

/// A silence is looked at so many times before it is too long.
const LOOKS: u32 = 4;

/// Signs of life that a handler gives elsewhere while an exchange is open.
#[derive(Debug, Default)]
pub struct Life(AtomicBool);

impl Life {
    /// The handler was heard of.
    pub fn sign(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The longest silence of an exchange.
#[derive(Debug, Clone)]
pub struct Patience {
    length: Duration,
    life: Option<Arc<Life>>,
}

impl From<Duration> for Patience {
    fn from(length: Duration) -> Self {
        Self { length, life: None }
    }
}

impl Patience {
    /// A silence of this length, which signs of life elsewhere interrupt.
    #[must_use]
    pub const fn with(length: Duration, life: Arc<Life>) -> Self {
        Self { length, life: Some(life) }
    }

    /// Waits for `what` until there has been silence for too long, or up to a quarter longer.
    pub async fn over<T>(&self, what: impl Future<Output = T>) -> Result<T, Failure> {
        let silent = Failure::Silence(self.length);
        let Some(life) = &self.life else {
            return timeout(self.length, what).await.map_err(|_| silent);
        };
        let mut what = pin!(what);
        let mut quiet = 0;
        while quiet < LOOKS {
            match timeout(self.length / LOOKS, &mut what).await {
                Ok(done) => return Ok(done),
                Err(_) if life.take() => quiet = 0,
                Err(_) => quiet += 1,
            }
        }
        Err(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sign_of_life_begins_the_silence_anew() {
        let life = Arc::new(Life::default());
        let length = Duration::from_millis(200);
        let patience = Patience::with(length, Arc::clone(&life));
        let begun = tokio::time::Instant::now();
        let mut signs = 0;
        let mut silent = pin!(patience.over(std::future::pending::<()>()));
        // Longer than the silence in all, never as long at a time.
        while signs < 10 {
            assert!(timeout(length / 4, &mut silent).await.is_err(), "it was heard of");
            life.sign();
            signs += 1;
        }
        assert_eq!(silent.await, Err(Failure::Silence(length)));
        assert!(begun.elapsed() >= length * 3, "{:?}", begun.elapsed());
        let plain = Patience::from(length);
        assert!(plain.over(std::future::pending::<()>()).await.is_err());
    }
}
