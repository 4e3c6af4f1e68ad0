//! The kinds of functions, and what a manifest may say of each.

use super::form::clip;
use super::manifest::FunctionSpec;
use super::names::valid_name;
use crate::machine::RunKind;

/// The longest path of a plain function, in bytes.
const MAX_PATH: usize = 2_048;

/// What is wrong, and in which field.
type Wrong = (&'static str, String);

impl FunctionSpec {
    /// What its runs are; none: this version knows no such kind.
    #[must_use]
    pub fn run_kind(&self) -> Option<RunKind> {
        Some(match self.kind.as_str() {
            "function" => RunKind::Function,
            "plain" => RunKind::Plain,
            "object" if self.shared => RunKind::Reader,
            "object" => RunKind::Object,
            _ => return None,
        })
    }

    /// What is wrong with its kind, or does not fit it.
    pub(super) fn check_kind(&self) -> Result<(), Wrong> {
        let Some(kind) = self.run_kind() else {
            let kind = clip(&self.kind);
            let detail = format!("unknown kind {kind:?}; use `function`, `object` or `plain`");
            return Err(("kind", detail));
        };
        if kind != RunKind::Plain && self.path.is_some() {
            return Err(("path", "`path` is of plain functions alone".to_owned()));
        }
        if !kind.has_object() && self.shared {
            return Err(("shared", "`shared` is of kind `object` alone".to_owned()));
        }
        if kind != RunKind::Reader && self.object.is_some() {
            let detail = "`object` is of shared functions alone; an object is its function's own";
            return Err(("object", detail.to_owned()));
        }
        if self.locks.is_some() {
            self.check_locks(kind)?;
        }
        match kind {
            RunKind::Function => Ok(()),
            RunKind::Plain => self.check_plain(),
            RunKind::Object | RunKind::Reader => self.check_object(),
        }
    }

    fn check_locks(&self, kind: RunKind) -> Result<(), Wrong> {
        if kind != RunKind::Function {
            let detail = "`locks` is of kind `function` alone: an object's run has its object, and \
                          others wait for it while it has";
            return Err(("locks", detail.to_owned()));
        }
        for (other, is_there) in
            [("debounce", self.debounce.is_some()), ("gather", self.gather.is_some())]
        {
            if is_there {
                let detail = format!(
                    "`locks` is not possible beside `{other}`: which objects a run has is known \
                     when it is started"
                );
                return Err(("locks", detail));
            }
        }
        Ok(())
    }

    fn check_object(&self) -> Result<(), Wrong> {
        if self.triggers.is_some() {
            let detail = "a run of an object needs a key, and a trigger gives none";
            return Err(("triggers", detail.to_owned()));
        }
        if self.gather.is_some() {
            let detail = "a run of an object needs a key, and gathered starts have none";
            return Err(("gather", detail.to_owned()));
        }
        match &self.object {
            None if self.shared => {
                let detail =
                    "a shared function needs `object`: the function whose objects it reads";
                Err(("object", detail.to_owned()))
            }
            Some(name) => valid_name(name).map_err(|e| ("object", e)),
            None => Ok(()),
        }
    }

    fn check_plain(&self) -> Result<(), Wrong> {
        let without = [
            ("invocation_retry", self.invocation_retry.is_some()),
            ("run_retry", self.run_retry.is_some()),
            ("tasks", self.tasks.is_some()),
            ("strict", self.strict),
        ];
        if let Some((field, _)) = without.into_iter().find(|(_, given)| *given) {
            let detail = "has no meaning for a plain function; its attempts follow `retry`";
            return Err((field, format!("`{field}` {detail}")));
        }
        let Some(path) = &self.path else { return Ok(()) };
        let absolute = path.starts_with('/') && !path[1..].starts_with(['/', '\\']);
        if !absolute || path.len() > MAX_PATH || path.contains(|c: char| c == '#' || c <= ' ') {
            let detail = format!(
                "`path` must begin with one slash and have at most {MAX_PATH} bytes without \
                 spaces or a fragment"
            );
            return Err(("path", detail));
        }
        Ok(())
    }
}
