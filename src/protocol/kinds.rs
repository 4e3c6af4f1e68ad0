//! The kinds of functions, and what a manifest may say of each.

use super::form::clip;
use super::manifest::FunctionSpec;
use crate::machine::RunKind;

/// The longest path of a plain function, in bytes.
const MAX_PATH: usize = 2_048;

impl FunctionSpec {
    /// What its runs are; none: this version knows no such kind.
    #[must_use]
    pub fn run_kind(&self) -> Option<RunKind> {
        [RunKind::Function, RunKind::Plain].into_iter().find(|k| k.word() == self.kind)
    }

    /// What is wrong with its kind, or does not fit it, and in which field.
    pub(super) fn check_kind(&self) -> Result<(), (&'static str, String)> {
        match self.run_kind() {
            Some(RunKind::Plain) => return self.check_plain(),
            Some(RunKind::Function) => {}
            None if self.kind == "object" => {
                return Err(("kind", "kind `object` is not supported by this version".to_owned()));
            }
            None => {
                let kind = clip(&self.kind);
                return Err(("kind", format!("unknown kind {kind:?}; use `function` or `plain`")));
            }
        }
        if self.path.is_some() {
            return Err(("path", "`path` is of plain functions alone".to_owned()));
        }
        Ok(())
    }

    fn check_plain(&self) -> Result<(), (&'static str, String)> {
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
