//! Await trees: what a suspended run waits for.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How deep trees may nest.
const MAX_DEPTH: usize = 16;

/// What must have settled before the run goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// One step.
    Step(String),
    /// Every one has a value, or one has failed.
    All(Vec<Tree>),
    /// One is settled, failed or not.
    Any(Vec<Tree>),
    /// Every one is settled.
    Settled(Vec<Tree>),
}

/// How a step, or a tree of them, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not settled.
    Pending,
    /// Settled with a value.
    Value,
    /// Settled with an error.
    Failed,
}

impl Tree {
    /// How the tree stands, given how each step stands.
    pub fn standing(&self, step: &impl Fn(&str) -> Standing) -> Standing {
        match self {
            Self::Step(id) => step(id),
            Self::All(of) => {
                let mut all = Standing::Value;
                for t in of {
                    match t.standing(step) {
                        Standing::Failed => return Standing::Failed,
                        Standing::Pending => all = Standing::Pending,
                        Standing::Value => {}
                    }
                }
                all
            }
            Self::Any(of) => {
                let mut any = Standing::Pending;
                for t in of {
                    match t.standing(step) {
                        Standing::Value => return Standing::Value,
                        Standing::Failed => any = Standing::Failed,
                        Standing::Pending => {}
                    }
                }
                any
            }
            Self::Settled(of) => {
                if of.iter().any(|t| t.standing(step) == Standing::Pending) {
                    Standing::Pending
                } else {
                    Standing::Value
                }
            }
        }
    }

    /// Every step id in it, in order, repeats included.
    #[must_use]
    pub fn steps(&self) -> Vec<&str> {
        let mut out = Vec::new();
        self.collect(&mut out);
        out
    }

    fn collect<'a>(&'a self, out: &mut Vec<&'a str>) {
        match self {
            Self::Step(id) => out.push(id),
            Self::All(of) | Self::Any(of) | Self::Settled(of) => {
                for t in of {
                    t.collect(out);
                }
            }
        }
    }

    /// What is wrong with its shape, in words.
    pub fn check(&self) -> Result<(), String> {
        self.check_at(1)
    }

    fn check_at(&self, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("the await tree nests deeper than {MAX_DEPTH}"));
        }
        match self {
            Self::Step(_) => Ok(()),
            Self::Any(of) if of.is_empty() => {
                Err("`any` of nothing in the await tree can never be satisfied".to_owned())
            }
            Self::All(of) | Self::Any(of) | Self::Settled(of) => {
                of.iter().try_for_each(|t| t.check_at(depth + 1))
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Node {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Settled(Vec<Tree>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Step(String),
    Node(Node),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Wire::deserialize(d) {
            Ok(Wire::Step(id)) => Ok(Self::Step(id)),
            Ok(Wire::Node(Node::All(of))) => Ok(Self::All(of)),
            Ok(Wire::Node(Node::Any(of))) => Ok(Self::Any(of)),
            Ok(Wire::Node(Node::Settled(of))) => Ok(Self::Settled(of)),
            Err(_) => Err(D::Error::custom(
                "an await tree is a step id or an object with one of `all`, `any`, `settled`",
            )),
        }
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Step(id) => s.serialize_str(id),
            Self::All(of) => Node::All(of.clone()).serialize(s),
            Self::Any(of) => Node::Any(of.clone()).serialize(s),
            Self::Settled(of) => Node::Settled(of.clone()).serialize(s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(json: &str) -> Tree {
        serde_json::from_str(json).expect("a tree")
    }

    #[test]
    fn trees_stand_as_the_protocol_says() {
        let step = |id: &str| match id {
            "v" => Standing::Value,
            "f" => Standing::Failed,
            _ => Standing::Pending,
        };
        for (json, expected) in [
            (r#""v""#, Standing::Value),
            (r#"{"all":["v","p"]}"#, Standing::Pending),
            (r#"{"all":["p","f"]}"#, Standing::Failed),
            (r#"{"any":["p","f"]}"#, Standing::Failed),
            (r#"{"any":["p",{"all":["v"]}]}"#, Standing::Value),
            (r#"{"settled":["v","f"]}"#, Standing::Value),
            (r#"{"settled":["v","p"]}"#, Standing::Pending),
        ] {
            assert_eq!(tree(json).standing(&step), expected, "{json}");
        }
    }

    #[test]
    fn odd_trees_are_refused() {
        assert!(serde_json::from_str::<Tree>(r#"{"all":["a"],"any":["b"]}"#).is_err());
        assert!(serde_json::from_str::<Tree>(r#"{"every":["a"]}"#).is_err());
        assert!(tree(r#"{"any":[]}"#).check().is_err());
        let deep = format!("{}\"a\"{}", r#"{"all":["#.repeat(17), "]}".repeat(17));
        assert!(tree(&deep).check().is_err());
    }
}
