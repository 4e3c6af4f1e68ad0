//! What was found: each check by its rules, for people and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::modes::Mode;
use super::{Seen, Wrong};
use crate::protocol::Transport;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The handler did what it should.
    Passed,
    /// It did not: what was seen.
    Failed(String),
    /// It was not asked: why.
    Skipped(String),
}

impl Verdict {
    pub(super) fn of(seen: Seen) -> Self {
        match seen {
            Ok(()) => Self::Passed,
            Err(Wrong(said)) => Self::Failed(said),
        }
    }
}

/// One check.
#[derive(Debug)]
pub(super) struct Check {
    pub name: &'static str,
    /// On which transport, and what went wrong there.
    pub played: Option<(Transport, Mode)>,
    pub rules: &'static [&'static str],
    pub verdict: Verdict,
}

/// How a rule or the whole stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No check of it could be made.
    Skipped,
    /// Every check of it that was made.
    Passed,
    /// At least one check of it failed.
    Failed,
}

/// One rule of the protocol.
#[derive(Debug, Clone, Serialize)]
pub struct RuleLine {
    /// Such as `P3.7`.
    pub rule: String,
    /// How it stands.
    pub status: Status,
    /// The checks of it.
    pub checks: usize,
    /// Those that failed, and those that were not made.
    pub details: Vec<String>,
}

/// One transport.
#[derive(Debug, Clone, Serialize)]
pub struct TransportLine {
    /// Its word in manifests.
    pub transport: &'static str,
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that were not made.
    pub skipped: usize,
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The handler.
    pub url: String,
    /// Whether no check failed.
    pub ok: bool,
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that were not made.
    pub skipped: usize,
    /// By transport; checks of single calls belong to none.
    pub transports: Vec<TransportLine>,
    /// By rule, in the order of the protocol.
    pub rules: Vec<RuleLine>,
}

impl Report {
    pub(super) fn new(url: String, checks: &[Check]) -> Self {
        let count = |of: fn(&Verdict) -> bool| checks.iter().filter(|c| of(&c.verdict)).count();
        let failed = count(|v| matches!(v, Verdict::Failed(_)));
        let skipped = count(|v| matches!(v, Verdict::Skipped(_)));
        let mut rules: BTreeMap<(u32, u32), RuleLine> = BTreeMap::new();
        for check in checks {
            let (status, detail) = match &check.verdict {
                Verdict::Passed => (Status::Passed, None),
                Verdict::Failed(said) => (Status::Failed, Some(said)),
                Verdict::Skipped(why) => (Status::Skipped, Some(why)),
            };
            let detail = detail.map(|said| match check.played {
                Some((on, mode)) => {
                    format!("{}: {}{}: {said}", on.word(), check.name, mode.suffix(on))
                }
                None => format!("{}: {said}", check.name),
            });
            for rule in check.rules {
                let line = rules.entry(place(rule)).or_insert_with(|| RuleLine {
                    rule: (*rule).to_owned(),
                    status,
                    checks: 0,
                    details: vec![],
                });
                line.status = line.status.max(status);
                line.checks += 1;
                line.details.extend(detail.clone());
            }
        }
        let passed = checks.len() - failed - skipped;
        let rules = rules.into_values().collect();
        let ok = failed == 0 && passed > 0;
        Self { url, ok, passed, failed, skipped, transports: by_transport(checks), rules }
    }

    /// The summary in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} checks {}", self.passed, rest(self.failed, self.skipped))
    }
}

impl TransportLine {
    /// The same for one transport.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{}: {} {}", self.transport, self.passed, rest(self.failed, self.skipped))
    }
}

/// What follows the number of those that passed.
fn rest(failed: usize, skipped: usize) -> String {
    if skipped == 0 {
        return format!("passed, {failed} failed");
    }
    format!("passed, {failed} failed, {skipped} not made")
}

fn by_transport(checks: &[Check]) -> Vec<TransportLine> {
    let mut lines: Vec<TransportLine> = vec![];
    for (on, verdict) in checks.iter().filter_map(|c| Some((c.played?.0.word(), &c.verdict))) {
        if lines.last().is_none_or(|line| line.transport != on) {
            lines.push(TransportLine { transport: on, passed: 0, failed: 0, skipped: 0 });
        }
        let Some(line) = lines.last_mut() else { continue };
        match verdict {
            Verdict::Passed => line.passed += 1,
            Verdict::Failed(_) => line.failed += 1,
            Verdict::Skipped(_) => line.skipped += 1,
        }
    }
    lines
}

/// Section and number, for the order.
fn place(rule: &str) -> (u32, u32) {
    let (section, number) = rule.trim_start_matches('P').split_once('.').unwrap_or_default();
    (section.parse().unwrap_or(0), number.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_as_good_as_its_worst_check() {
        let check = |name, rules, verdict| Check { name, played: None, rules, verdict };
        let report = Report::new(
            "http://h/".to_owned(),
            &[
                check("a", &["P3.10", "P3.9"], Verdict::Passed),
                check("b", &["P3.10"], Verdict::Failed("no".to_owned())),
                check("c", &["P3.9", "P2.1"], Verdict::Skipped("why".to_owned())),
            ],
        );
        let lines: Vec<_> = report.rules.iter().map(|r| (r.rule.as_str(), r.status)).collect();
        let expected =
            [("P2.1", Status::Skipped), ("P3.9", Status::Passed), ("P3.10", Status::Failed)];
        assert_eq!(lines, expected);
        assert_eq!(report.rules[2].details, ["b: no"]);
        assert!(!report.ok);
        assert_eq!(report.summary(), "1 checks passed, 1 failed, 1 not made");
        assert!(!Report::new(String::new(), &[]).ok, "nothing seen is nothing shown");
    }

    #[test]
    fn what_failed_is_told_with_its_transport_and_what_went_wrong_there() {
        let check = |on, verdict| {
            let played = Some((on, Mode::Lost));
            Check { name: "a", played, rules: &["P4.9"], verdict }
        };
        let checks = [
            check(Transport::Respond, Verdict::Passed),
            check(Transport::Checkpoint, Verdict::Failed("no".to_owned())),
            check(Transport::Checkpoint, Verdict::Passed),
        ];
        let report = Report::new("http://h/".to_owned(), &checks);
        let lines: Vec<_> =
            report.transports.iter().map(|t| (t.transport, t.passed, t.failed)).collect();
        assert_eq!(lines, [("respond", 1, 0), ("checkpoint", 1, 1)]);
        assert_eq!(report.rules[0].details, ["checkpoint: a (each acknowledgement lost): no"]);
    }
}
