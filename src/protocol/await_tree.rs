//! Reads the tree of an `await`, in one pass and within bounds.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::machine::Tree;

/// The most steps and branches of one tree.
const MAX_NODES: usize = 50_000;
/// Stops the reader before its stack grows; [`Tree::check`] has the protocol's own bound.
const MAX_NESTING: usize = 20;

const FORM: &str = "an await tree is a step id or an object with one of `all`, `any`, `settled`";

/// Reads a tree from JSON text and checks its shape. The error is in words.
pub(super) fn parse_tree(json: &str) -> Result<Tree, String> {
    let nodes = Cell::new(0);
    let mut from = serde_json::Deserializer::from_str(json);
    let tree =
        Node { nodes: &nodes, depth: 1 }.deserialize(&mut from).map_err(|e| e.to_string())?;
    tree.check()?;
    Ok(tree)
}

#[derive(Clone, Copy)]
struct Node<'n> {
    nodes: &'n Cell<usize>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Tree;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Tree, D::Error> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() > MAX_NODES {
            return Err(Error::custom(format!("the await tree has more than {MAX_NODES} parts")));
        }
        if self.depth > MAX_NESTING {
            return Err(Error::custom("the await tree nests too deep"));
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORM)
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<Tree, E> {
        Ok(Tree::Step(id.to_owned()))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Tree, M::Error> {
        let form = || Error::custom(FORM);
        let kind: String = map.next_key()?.ok_or_else(form)?;
        let wrap = match kind.as_str() {
            "all" => Tree::All,
            "any" => Tree::Any,
            "settled" => Tree::Settled,
            _ => return Err(form()),
        };
        let of = map.next_value_seed(Branches(Self { depth: self.depth + 1, ..self }))?;
        if map.next_key::<String>()?.is_some() {
            return Err(form());
        }
        Ok(wrap(of))
    }
}

struct Branches<'n>(Node<'n>);

impl<'de> DeserializeSeed<'de> for Branches<'_> {
    type Value = Vec<Tree>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vec<Tree>, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Branches<'_> {
    type Value = Vec<Tree>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of await trees")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Vec<Tree>, S::Error> {
        let mut of = Vec::new();
        while let Some(tree) = list.next_element_seed(self.0)? {
            of.push(tree);
        }
        Ok(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_machine_writes() {
        for json in [
            r#""a""#,
            r#"{"all":["a",{"any":["b","c"]},{"settled":["d"]}]}"#,
            r#"{"all":[]}"#,
            r#""\u00e4""#,
        ] {
            let tree = parse_tree(json).expect(json);
            assert_eq!(serde_json::from_str::<Tree>(json).expect(json), tree);
        }
    }

    #[test]
    fn other_shapes_are_refused_in_words() {
        let deep = format!("{}\"a\"{}", r#"{"all":["#.repeat(60), "]}".repeat(60));
        let wide = format!("{{\"any\":[{}\"a\"]}}", "\"a\",".repeat(MAX_NODES));
        for bad in
            ["1", "null", "[]", "{}", r#"{"every":["a"]}"#, r#"{"any":[]}"#, r#"{"all":"a"}"#]
                .into_iter()
                .chain([r#"{"all":["a"],"any":["b"]}"#, &deep, &wide])
        {
            let said = parse_tree(bad).expect_err("refused");
            assert!(said.contains("await tree"), "{said}");
        }
    }
}
