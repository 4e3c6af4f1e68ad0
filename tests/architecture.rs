//! The floors: who may use whom, read from the sources themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// A module of ours, and the modules of ours that it must not name.
const FLOORS: [(&str, &[&str]); 7] = [
    ("machine", &["api", "cli", "clock", "conformance", "engine", "outbound", "protocol", "store"]),
    ("protocol", &["api", "cli", "clock", "conformance", "engine", "outbound", "store"]),
    ("store", &["api", "cli", "clock", "conformance", "engine", "outbound", "protocol"]),
    ("outbound", &["api", "cli", "clock", "conformance", "engine", "protocol", "store"]),
    ("replay", &["api", "cli", "clock", "conformance", "engine", "outbound", "store"]),
    ("engine", &["api", "cli", "conformance"]),
    // It plays the gateway with the gateway's own words, and has no database.
    ("conformance", &["api", "app", "cli", "dev", "engine", "store"]),
];

/// A crate, and the only places whose code may name it: modules, or files.
const CRATES: [(&str, &[&str]); 2] = [
    // `dev` administers the Postgres that it brings along, and knows no table.
    ("sqlx", &["store", "dev"]),
    // Strangers are called through `outbound` alone; the others call what the operator named.
    ("reqwest", &["outbound", "cli", "conformance", "telemetry", "api/forward.rs"]),
];

/// The longest file, in lines.
const LONGEST: usize = 600;

/// What a pure module does not know.
const IMPURE: [&str; 5] = ["async", "await", "tokio", "SystemTime", "Instant"];

/// One source file: its path below `src` and its code, without comments and strings.
struct Source {
    path: PathBuf,
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: PathBuf::from(path), code: code_of(text) }
    }

    /// The module that it belongs to: the first folder, or the file itself.
    fn module(&self) -> &str {
        let first = self.path.iter().next().and_then(|p| p.to_str()).unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Whether it is compiled for tests only: those may use what they need.
    fn is_test(&self) -> bool {
        let name = self.path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
        name == "tests" || name.ends_with("_tests") || self.path.iter().any(|p| p == "tests")
    }

    /// Whether this word stands in the code, whole, and `after` follows it.
    fn says(&self, word: &str, after: &str) -> bool {
        let edge = |c: char| !c.is_alphanumeric() && c != '_';
        self.code.match_indices(word).any(|(at, _)| {
            let rest = &self.code[at + word.len()..];
            self.code[..at].chars().next_back().is_none_or(edge)
                && rest.chars().next().is_none_or(edge)
                && rest.starts_with(after)
        })
    }

    /// Whether it names this module of ours, by path or in a group of imports.
    fn names(&self, module: &str) -> bool {
        let opening = "crate::{";
        let mut groups = self.code.match_indices(opening);
        self.says(&format!("crate::{module}"), "")
            || groups.any(|(at, _)| tops(&self.code[at + opening.len()..]).contains(&module))
    }
}

/// The first words of the members of an import group, up to its closing brace.
fn tops(group: &str) -> Vec<&str> {
    let mut tops = vec![];
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let member = group[from..at].trim();
                tops.push(member.split([':', ' ', '{']).next().unwrap_or_default());
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    tops
}

/// Drops line comments and the insides of plain strings: words there bind nobody.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if string => {
                    chars.next();
                }
                '"' => string = !string,
                '/' if !string && chars.peek() == Some(&'/') => break,
                c if !string => code.push(c),
                _ => {}
            }
        }
        code.push('\n');
    }
    code
}

/// Everything that is wrong with these sources.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut wrong = vec![];
    for source in sources {
        let (module, at) = (source.module(), source.path.display());
        if let Some((_, forbidden)) = FLOORS.iter().find(|(name, _)| *name == module) {
            for other in forbidden.iter().filter(|other| source.names(other)) {
                wrong.push(format!("{at}: `{module}` uses `{other}`, which is not below it"));
            }
        }
        for (name, homes) in CRATES {
            let file = source.path.to_string_lossy();
            let at_home = homes.contains(&module) || homes.contains(&&*file);
            if !at_home && !source.is_test() && source.says(name, "::") {
                wrong.push(format!("{at}: only {homes:?} may use `{name}`"));
            }
        }
        for word in IMPURE.into_iter().filter(|word| module == "machine" && source.says(word, "")) {
            wrong.push(format!("{at}: the machine is pure and knows no `{word}`"));
        }
    }
    wrong
}

fn read(folder: &Path, src: &Path, into: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, src, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let name = path.strip_prefix(src).expect("below src");
            assert!(
                text.starts_with("//! ") || text.starts_with('#'),
                "{}: the first line does not say what the file is for",
                name.display()
            );
            let lines = text.lines().count();
            assert!(lines <= LONGEST, "{}: {lines} lines, more than {LONGEST}", name.display());
            into.push(Source::new(&name.to_string_lossy(), &text));
        }
    }
}

#[test]
fn every_module_stays_on_its_floor() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = vec![];
    read(&src, &src, &mut sources);
    assert!(sources.iter().any(|s| s.module() == "machine"), "the sources are where they were");
    let wrong = violations(&sources);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_planted_violation_is_found() {
    for (path, text) in [
        ("machine/run.rs", "use crate::store::Db;"),
        ("machine/run.rs", "use crate::{machine::Run, engine::{Engine, Start}};"),
        ("machine/run.rs", "pub async fn apply() {}"),
        ("machine/time.rs", "let t = std::time::Instant::now();"),
        ("store/append.rs", "fn f(of: crate::protocol::Answer) {}"),
        ("protocol/mod.rs", "use crate::{\n    machine::Op,\n    outbound,\n};"),
        ("outbound.rs", "use crate::engine::Engine;"),
        ("engine/owner.rs", "use crate::api::Problem;"),
        ("engine/owner.rs", "let rows = sqlx::query(SQL);"),
        ("conformance/play.rs", "use crate::engine::Engine;"),
        ("api/runs.rs", "use sqlx::Row as _;"),
        ("api/runs.rs", "let c = reqwest::Client::new();"),
    ] {
        assert_eq!(violations(&[Source::new(path, text)]).len(), 1, "{path}: {text}");
    }
}

#[test]
fn what_is_allowed_is_no_violation() {
    for (path, text) in [
        ("machine/run.rs", "// unlike crate::store, and no async\nuse super::row::Row;"),
        ("machine/run.rs", "let word = \"await\"; enum Terminal { Await(Tree) }"),
        ("store/append.rs", "use crate::machine::{Append, Row};\nsqlx::query(SQL);"),
        ("engine/owner.rs", "use crate::{machine::Run, store::Store, outbound};"),
        ("cli/run.rs", "reqwest::Client::new(); let storehouse = 1;"),
        ("api/runs.rs", "use crate::engine::Engine;"),
    ] {
        assert_eq!(violations(&[Source::new(path, text)]), Vec::<String>::new(), "{text}");
    }
}
