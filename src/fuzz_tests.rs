//! A bounded run of every fuzz target: its corpus, and mutations of it. `FUZZ_CASES` makes it longer.

use std::panic::catch_unwind;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::TARGETS;

/// What mutations are made of, beside the corpus.
const WORDS: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e999",
    "9223372036854775808",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "ops",
    "op",
    "id",
    "run",
    "value",
    "error",
    "await",
    "all",
    "any",
    "settled",
    "result",
    "yield",
    "retry",
    "for",
    "until",
    "P1Y",
    "9d",
    "PT",
    "whsec_",
    "v1,",
    "../",
    "\u{7f}",
    "ü",
    "\u{1f980}",
];

fn cases() -> usize {
    let cases = std::env::var_os("FUZZ_CASES").and_then(|n| n.to_str()?.parse().ok());
    cases.unwrap_or(3_000)
}

/// The corpus of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

/// One change of many kinds.
fn mutate(chance: &mut StdRng, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = chance.random_range(0..=data.len());
    let to = (at + chance.random_range(0..=8)).min(data.len());
    match chance.random_range(0..8) {
        0 if at < data.len() => data[at] ^= 1 << chance.random_range(0..8),
        1 if at < data.len() => data[at] = chance.random(),
        2 => drop(data.drain(at..to)),
        3 => {
            let piece = data[at..to].to_vec();
            let times = chance.random_range(1..40);
            data.splice(at..at, piece.repeat(times));
        }
        4 => data.truncate(at),
        5 => {
            let other = &seeds[chance.random_range(0..seeds.len())];
            let from = chance.random_range(0..=other.len());
            data.splice(at.., other[from..].iter().copied());
        }
        6 => {
            let word = WORDS[chance.random_range(0..WORDS.len())];
            let times = if chance.random_range(0..20) == 0 { 5_000 } else { 1 };
            data.splice(at..to, word.repeat(times).into_bytes());
        }
        _ => data.splice(at..at, (0..4).map(|_| chance.random())).for_each(drop),
    }
}

#[test]
fn every_target_holds_on_its_corpus_and_on_mutations_of_it() {
    for (name, target) in TARGETS {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name} has a corpus");
        let mut chance = StdRng::seed_from_u64(42);
        let mutated = |chance: &mut StdRng| {
            let mut data = seeds[chance.random_range(0..seeds.len())].clone();
            for _ in 0..chance.random_range(1..6) {
                mutate(chance, &mut data, &seeds);
            }
            data
        };
        let run = |data: &[u8]| {
            if catch_unwind(|| target(data)).is_err() {
                let text: String = data.escape_ascii().take(400).map(char::from).collect();
                panic!("{name} does not hold for {} bytes, b\"{text}\"", data.len());
            }
        };
        for seed in &seeds {
            run(seed);
        }
        for _ in 0..cases() {
            run(&mutated(&mut chance));
        }
    }
}

#[test]
fn seeds_reach_what_they_are_for() {
    // A corpus of refused input alone would test the refusals alone.
    let accepted = |name: &str, of: fn(&[u8]) -> bool| {
        let seeds = corpus(name);
        let good = seeds.iter().filter(|seed| of(seed)).count();
        assert!(good > 0 && good < seeds.len(), "{name}: {good} of {}", seeds.len());
    };
    accepted("answer", |data| {
        let body = bytes::Bytes::copy_from_slice(data);
        crate::protocol::parse_answer(&body, &crate::machine::Limits::default()).is_ok()
    });
    accepted("manifest", |data| crate::protocol::Manifest::parse(data).is_ok());
    accepted("duration", |data| {
        let text = std::str::from_utf8(data).unwrap_or_default();
        crate::machine::time::parse_duration(text).is_ok()
    });
}
