//! What a node remembers of invocations: bounded in number, bytes and time.

use super::*;

fn at(minutes: u64, seconds: u64) -> Timestamp {
    Timestamp::from_micros(0) + Duration::from_secs(minutes * 60 + seconds)
}

fn part(bytes: usize) -> Part {
    Part::new(&HeaderMap::new(), [], &vec![b'x'; bytes])
}

/// One that failed unless it has a status.
fn invoked(n: u128, sent: Timestamp, status: Option<u16>) -> Invoked {
    Invoked {
        id: InvocationId::new(sent, n),
        at: sent,
        took: Duration::from_millis(30),
        run: RunId::new(sent, 0),
        function: "f".to_owned(),
        step: None,
        deployment: DeploymentId::new(sent, 0),
        transport: "respond",
        status,
        outcome: if status.is_some() { "answered" } else { FAILED },
        detail: None,
        request: part(10),
        answer: status.map(|_| part(5)),
    }
}

#[test]
fn the_last_are_known_and_before_them_those_that_failed() {
    let all = Invocations::default();
    all.note(1, invoked(0, at(0, 0), None));
    for n in 0..LAST {
        all.note(1, invoked(1, at(0, 1 + n as u64), Some(200)));
    }
    let (last, minutes) = all.of(1, at(2, 0));
    assert_eq!(last.len(), LAST + 1);
    assert_eq!((last[LAST].at, last[LAST].outcome), (at(0, 0), FAILED));
    assert!(last.is_sorted_by(|a, b| a.at > b.at), "newest first");
    let counts: Vec<_> = minutes.iter().map(|m| (m.at, m.invocations, m.failed)).collect();
    assert_eq!(counts, [(at(0, 0), 60, 1), (at(1, 0), 41, 0)]);
    assert_eq!(minutes[0].took.iter().sum::<u64>(), 60);
    for n in 0..3 * LAST {
        all.note(1, invoked(2, at(3, n as u64), None));
    }
    assert_eq!(all.of(1, at(9, 0)).0.len(), 2 * LAST);
    assert_eq!(all.of(2, at(9, 0)), (vec![], vec![]));
    assert_eq!(lock(&all.0).kept, 2 * LAST * 10);
}

#[test]
fn one_that_took_long_counts_in_the_minute_in_which_it_was_sent() {
    let all = Invocations::default();
    for sent in [at(5, 0), at(3, 0), at(4, 0), at(3, 59)] {
        all.note(1, invoked(0, sent, Some(200)));
    }
    let counts =
        |now| -> Vec<_> { all.of(1, now).1.iter().map(|m| (m.at, m.invocations)).collect() };
    assert_eq!(counts(at(5, 0)), [(at(3, 0), 2), (at(4, 0), 1), (at(5, 0), 1)]);
    assert_eq!(counts(at(64, 0)), [(at(5, 0), 1)]);
}

#[test]
fn a_body_is_kept_for_an_hour_and_as_long_as_there_is_room() {
    let all = Invocations::default();
    all.note(1, invoked(0, at(0, 0), Some(200)));
    all.note(1, invoked(1, at(30, 0), None));
    let bodies =
        |now| -> Vec<bool> { all.of(1, now).0.iter().map(|i| i.request.head.is_some()).collect() };
    assert_eq!(bodies(at(59, 0)), [true, true]);
    assert_eq!(bodies(at(60, 0)), [true, false]);
    assert_eq!(bodies(at(90, 0)), [false, false]);
    assert_eq!(lock(&all.0).kept, 0);
    let large = |n| Invoked { request: part(2 * HEAD), ..invoked(n, at(91, 0), None) };
    for endpoint in 0..2 * MOST_BYTES / HEAD / LAST {
        for n in 0..LAST {
            all.note(i32::try_from(endpoint).expect("few"), large(n as u128));
        }
    }
    let kept = lock(&all.0).kept;
    assert!(kept <= MOST_BYTES && kept + HEAD > MOST_BYTES, "{kept}");
}

#[test]
fn the_endpoint_that_was_called_longest_ago_is_forgotten_first() {
    let all = Invocations::default();
    for n in 0..=MOST_ENDPOINTS {
        all.note(i32::try_from(n).expect("few"), invoked(0, at(0, n as u64), Some(200)));
    }
    assert_eq!(all.of(0, at(17, 0)).0.len(), 0);
    assert_eq!(all.of(1, at(17, 0)).0.len(), 1);
    assert_eq!(lock(&all.0).kept, MOST_ENDPOINTS * 15);
}

#[test]
fn a_header_that_gives_power_is_not_kept() {
    let header = |text| HeaderValue::from_static(text);
    let headers = HeaderMap::from_iter([
        (header::SET_COOKIE, header("a=1")),
        (header::CONTENT_TYPE, header("text/plain")),
        (header::HeaderName::from_static("x-key"), header("k")),
    ]);
    let kept = Part::new(&headers, [&header::HeaderName::from_static("x-key")], b"").headers;
    assert_eq!((&kept["x-key"], &kept["set-cookie"]), (&header(HIDDEN), &header(HIDDEN)));
    assert_eq!((kept.len(), &kept["content-type"]), (3, &header("text/plain")));
}
