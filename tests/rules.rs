//! The rules of the protocol: each has a number of its own, and each that is implemented a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Implemented rules that no test names, one a line. It may only get shorter.
const WITHOUT: &str = "tests/rules-without-a-test.txt";

/// How many lines that list may have: lower it whenever the list gets shorter.
const AT_MOST: usize = 1;

/// A rule: its section and its number there.
type Rule = (u32, u32);

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rules that this text names, `P3.7` each, in its order.
fn named(text: &str) -> Vec<Rule> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '.');
    let rule = |word: &str| {
        let (section, number) = word.trim_end_matches('.').strip_prefix('P')?.split_once('.')?;
        Some((section.parse().ok()?, number.parse().ok()?))
    };
    words.filter_map(rule).collect()
}

/// The rules of a cell of the table of parts, where `P3.1-P3.9` is nine of them.
fn listed(cell: &str) -> Vec<Rule> {
    let mut rules = vec![];
    for part in cell.split(',') {
        let ends = named(part);
        let (Some(from), Some(to)) = (ends.first(), ends.last()) else { continue };
        assert_eq!(from.0, to.0, "{part}: a range is of one section");
        rules.extend((from.1..=to.1).map(|number| (from.0, number)));
    }
    rules
}

/// The page: the rules as they are marked, and the table of parts.
struct Page {
    marked: Vec<Rule>,
    parts: Vec<(String, Vec<Rule>)>,
}

impl Page {
    fn read(text: &str) -> Self {
        let (mut marked, mut parts) = (vec![], vec![]);
        let mut section = 0;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title.split('.').next().and_then(|n| n.parse().ok()).expect("a number");
            }
            if section == 0 {
                let cells: Vec<&str> = line.split(" | ").collect();
                if let [_, rules, state, ..] = cells[..] {
                    parts.push((state.trim().to_owned(), listed(rules)));
                }
                continue;
            }
            for (at, _) in line.match_indices("[P") {
                let mark = line[at + 1..].split(']').next().unwrap_or_default();
                let rules = named(mark);
                assert_eq!(rules.len(), 1, "[{mark}] is no mark of a rule");
                assert_eq!(rules[0].0, section, "[{mark}] stands in section {section}");
                marked.extend(rules);
            }
        }
        Self { marked, parts }
    }

    /// What is wrong with the numbers.
    fn faults(&self) -> Vec<String> {
        let mut faults = vec![];
        let mut sections: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (section, number) in &self.marked {
            if !sections.entry(*section).or_default().insert(*number) {
                faults.push(format!("P{section}.{number} is there twice"));
            }
        }
        for (section, numbers) in &sections {
            let missing =
                (1..=numbers.last().copied().unwrap_or(0)).filter(|n| !numbers.contains(n));
            faults.extend(missing.map(|n| format!("P{section}.{n} is skipped")));
        }
        let all: BTreeSet<&Rule> = self.marked.iter().collect();
        let mut placed = BTreeSet::new();
        for rule in self.parts.iter().flat_map(|(_, rules)| rules) {
            if !all.contains(rule) {
                faults.push(format!("P{}.{} is in the table and not on the page", rule.0, rule.1));
            }
            if !placed.insert(rule) {
                faults.push(format!("P{}.{} is in two parts of the table", rule.0, rule.1));
            }
        }
        let unplaced = all.difference(&placed);
        faults.extend(unplaced.map(|r| format!("P{}.{} is in no part of the table", r.0, r.1)));
        faults
    }

    fn implemented(&self) -> BTreeSet<Rule> {
        let yes = self.parts.iter().filter(|(state, _)| state == "yes");
        yes.flat_map(|(_, rules)| rules.iter().copied()).collect()
    }
}

fn page() -> Page {
    Page::read(&fs::read_to_string(home().join("docs/protocol.md")).expect("the page"))
}

/// Every file of tests: all below `tests`, and in `src` those that have tests.
fn tests(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The rules that comments directly over a test name, with nothing but attributes between.
fn cited(text: &str) -> BTreeSet<Rule> {
    let (mut cited, mut waiting) = (BTreeSet::new(), vec![]);
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("//") {
            waiting.extend(named(line));
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
        } else {
            if is_test {
                cited.extend(waiting.drain(..));
            }
            (waiting, is_test) = (vec![], false);
        }
    }
    cited
}

#[test]
fn every_rule_has_one_number_and_one_place() {
    let page = page();
    assert!(page.marked.len() > 150, "the marks are where they were");
    let faults = page.faults();
    assert!(faults.is_empty(), "docs/protocol.md:\n{}", faults.join("\n"));
}

#[test]
fn every_implemented_rule_has_a_test() {
    let mut files = vec![];
    for folder in ["tests", "src"] {
        tests(&home().join(folder), &mut files);
    }
    let mut cited_anywhere = BTreeSet::new();
    for file in files.iter().filter(|f| !f.ends_with("tests/rules.rs")) {
        cited_anywhere.extend(cited(&fs::read_to_string(file).expect("a source file")));
    }
    let page = page();
    let all: BTreeSet<Rule> = page.marked.iter().copied().collect();
    let list = fs::read_to_string(home().join(WITHOUT)).expect("the list");
    let list: BTreeSet<Rule> =
        list.lines().filter(|l| !l.starts_with('#')).flat_map(named).collect();
    let write = |(section, number): &Rule| format!("P{section}.{number}");

    let unknown: Vec<_> = cited_anywhere.difference(&all).map(write).collect();
    assert!(unknown.is_empty(), "tests name rules that are not on the page: {unknown:?}");
    let implemented = page.implemented();
    let bare: Vec<_> = implemented
        .iter()
        .filter(|r| !cited_anywhere.contains(r) && !list.contains(r))
        .map(write)
        .collect();
    assert!(bare.is_empty(), "put `// {}` over a test of it: {bare:?}", bare[0]);
    let settled: Vec<_> = list
        .iter()
        .filter(|r| cited_anywhere.contains(r) || !implemented.contains(r))
        .map(write)
        .collect();
    assert!(settled.is_empty(), "{WITHOUT}: these need no place there any more: {settled:?}");
    assert!(list.len() <= AT_MOST, "{WITHOUT} may only get shorter: {} > {AT_MOST}", list.len());
    assert!(list.len() == AT_MOST, "well done: lower AT_MOST to {}", list.len());
}

#[test]
fn faults_that_are_planted_are_found() {
    let table = "## 0. Now\n| a | P1.1-P1.3 | yes | |\n| b | P2.1 | no | |\n";
    let good = format!("{table}## 1. One\n[P1.2] a [P1.1] b\n- [P1.3] c\n## 2. Two\n[P2.1] d\n");
    let page = Page::read(&good);
    assert_eq!(page.faults(), Vec::<String>::new());
    assert_eq!(page.implemented().into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (1, 3)]);
    for (from, to, fault) in [
        ("[P1.1]", "[P1.2]", "P1.2 is there twice"),
        ("[P1.3] c", "[P1.3] c [P1.5]", "P1.4 is skipped"),
        ("P1.1-P1.3", "P1.1, P1.2", "P1.3 is in no part of the table"),
        ("| P2.1 |", "| P2.1, P1.1 |", "P1.1 is in two parts of the table"),
        ("| P2.1 |", "| P2.1, P2.2 |", "P2.2 is in the table and not on the page"),
    ] {
        let faults = Page::read(&good.replace(from, to)).faults();
        assert!(faults.contains(&fault.to_owned()), "{fault}: {faults:?}");
    }
}

#[test]
fn only_what_stands_over_a_test_is_cited() {
    let text = "// P1.1: far away\n\nfn helper() {}\n/// P1.2\n#[test]\nfn a() {}\n\
                // P1.3, P1.4\n#[tokio::test(flavor = \"x\")]\nasync fn b() { // P1.5\n}\n\
                // P1.6\nfn not_a_test() {}\n";
    assert_eq!(cited(text).into_iter().collect::<Vec<_>>(), [(1, 2), (1, 3), (1, 4)]);
}
