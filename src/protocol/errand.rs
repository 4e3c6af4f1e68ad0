//! Reads the ops that ask something of another run: `invoke`, `send`, `cancel`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::answer::BadAnswer;
use super::form::clip;
use super::names::{valid_key, valid_name, valid_tag};
use super::op::{
    DELAY, DETACH, FUNCTION, ID, IF_RUNNING, INPUT, KEY, ON_PARENT_CLOSE, PAYLOAD, REASON, RUN,
    Reader, SIGNAL, TAGS,
};
use crate::machine::{Addressee, Ask, Close, Errand, Holder, Invoke, Op, RunId};

/// The fields of `invoke`.
pub(super) const INVOKE: &[usize] =
    &[ID, FUNCTION, INPUT, KEY, DETACH, DELAY, ON_PARENT_CLOSE, IF_RUNNING, TAGS];
/// The fields of `send`.
pub(super) const SEND: &[usize] = &[ID, RUN, FUNCTION, KEY, SIGNAL, PAYLOAD];
/// The fields of `cancel`.
pub(super) const CANCEL: &[usize] = &[ID, RUN, REASON];

impl Reader<'_> {
    pub(super) fn invoke(&self) -> Result<Op, BadAnswer> {
        let child = Invoke {
            function: self.name(FUNCTION, "function")?,
            input: self.payload(INPUT, "input")?,
            key: self.key()?,
            detach: self.word(DETACH, "`detach` must be true or false")?.unwrap_or_default(),
            delay: self.duration(DELAY)?,
            on_parent_close: self
                .word::<Close>(ON_PARENT_CLOSE, "`on_parent_close` must be one of cancel, abandon")?
                .unwrap_or_default(),
            if_running: self
                .word::<Holder>(
                    IF_RUNNING,
                    "`if_running` must be one of fail, use_existing, cancel_existing, \
                     terminate_existing",
                )?
                .unwrap_or_default(),
            tags: self.child_tags()?,
        };
        if child.detach && self.optional(ON_PARENT_CLOSE).is_some() {
            if child.on_parent_close == Close::Cancel {
                let detail = "a child with `detach` outlives its parent: leave `on_parent_close` \
                              out or let it be \"abandon\"";
                return Err(self.bad(detail));
            }
        } else if !child.detach && child.if_running == Holder::UseExisting {
            let detail = "`if_running` \"use_existing\" needs `detach`: the end of a run is told \
                          to who started it";
            return Err(self.bad(detail));
        }
        if child.key.is_none() && self.optional(IF_RUNNING).is_some() {
            return Err(
                self.bad("`if_running` is about a run of the same `key`, and there is none")
            );
        }
        self.ask(Ask::Other(Box::new(Errand::Invoke(child))))
    }

    pub(super) fn send(&self) -> Result<Op, BadAnswer> {
        let to = match (self.optional(RUN), self.optional(FUNCTION), self.key()?) {
            (Some(_), None, None) => Addressee::Run(self.run_id()?),
            (None, Some(_), Some(key)) => {
                Addressee::Key { function: self.name(FUNCTION, "function")?, key }
            }
            _ => return Err(self.bad("a signal goes to a `run`, or to a `function` and `key`")),
        };
        let signal = self.name(SIGNAL, "signal")?;
        let payload = self.payload(PAYLOAD, "payload")?;
        self.ask(Ask::Other(Box::new(Errand::Send { to, signal, payload })))
    }

    pub(super) fn cancel(&self) -> Result<Op, BadAnswer> {
        let run = self.run_id()?;
        let reason = match self.optional(REASON) {
            Some(_) => Some(self.text(REASON)?.replace('\0', "\u{fffd}")),
            None => None,
        };
        self.ask(Ask::Other(Box::new(Errand::Cancel { run, reason })))
    }

    pub(super) fn name(&self, slot: usize, field: &str) -> Result<String, BadAnswer> {
        let name = self.text(slot)?.into_owned();
        valid_name(&name).map_err(|e| self.bad(format!("`{field}`: {e}")))?;
        Ok(name)
    }

    fn key(&self) -> Result<Option<String>, BadAnswer> {
        if self.optional(KEY).is_none() {
            return Ok(None);
        }
        let key = self.text(KEY)?.into_owned();
        valid_key(&key).map_err(|e| self.bad(format!("`key`: {e}")))?;
        Ok(Some(key))
    }

    fn run_id(&self) -> Result<RunId, BadAnswer> {
        self.text(RUN)?.parse().map_err(|e: crate::machine::BadId| {
            self.bad(format!("`run`: {}", clip(&e.to_string())))
        })
    }

    /// A payload that may be left out, byte for byte.
    pub(super) fn payload(&self, slot: usize, field: &str) -> Result<Bytes, BadAnswer> {
        let Some(raw) = self.form.get(slot) else { return Ok(Bytes::from_static(b"null")) };
        let id = self.id()?;
        self.from.keep(raw, Some(&id), field)
    }

    fn word<T: DeserializeOwned>(&self, slot: usize, wrong: &str) -> Result<Option<T>, BadAnswer> {
        let Some(raw) = self.optional(slot) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|_| self.bad(wrong))
    }

    fn child_tags(&self) -> Result<BTreeMap<String, String>, BadAnswer> {
        let wrong = "`tags` must be an object whose values are strings";
        let tags: BTreeMap<String, String> = self.word(TAGS, wrong)?.unwrap_or_default();
        for (name, value) in &tags {
            valid_tag(name, value).map_err(|e| self.bad(e))?;
        }
        Ok(tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Limits;
    use crate::protocol::parse_answer;

    const RUN: &str = "run_01k9zzzzzze0080000000000ab";

    fn read(op: &str) -> Result<Errand, String> {
        let body = Bytes::from(format!("{{\"ops\":[{op}]}}"));
        let answer = parse_answer(&body, &Limits::default()).map_err(|e| e.to_string())?;
        match answer.ops.into_iter().next() {
            Some(Op::Ask { ask: Ask::Other(errand), .. }) => Ok(*errand),
            other => panic!("not an errand: {other:?}"),
        }
    }

    #[test]
    fn children_signals_and_cancels_are_read() {
        let child = read(
            r#"{"op":"invoke","id":"c","function":"f","input":{"n":  1.0},"key":"k","detach":true,
               "delay":"90s","if_running":"use_existing","tags":{"a":"b"}}"#,
        );
        let Ok(Errand::Invoke(child)) = child else { panic!("{child:?}") };
        assert_eq!(child.input, r#"{"n":  1.0}"#);
        assert_eq!((child.detach, child.if_running), (true, Holder::UseExisting));
        let plain = read(r#"{"op":"invoke","id":"c","function":"f"}"#);
        let Ok(Errand::Invoke(plain)) = plain else { panic!("{plain:?}") };
        assert_eq!((&*plain.input, plain.on_parent_close), (&b"null"[..], Close::Cancel));
        let to_key = r#"{"op":"send","id":"s","function":"f","key":"k","signal":"go"}"#;
        let sent = read(to_key);
        let key = Addressee::Key { function: "f".into(), key: "k".into() };
        assert!(matches!(&sent, Ok(Errand::Send { to, .. }) if *to == key), "{sent:?}");
        let cancel = read(&format!(r#"{{"op":"cancel","id":"x","run":"{RUN}","reason":"r"}}"#));
        assert!(matches!(&cancel, Ok(Errand::Cancel { reason: Some(_), .. })), "{cancel:?}");
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        for (op, said) in [
            (r#"{"op":"invoke","id":"c"}"#, "function"),
            (r#"{"op":"invoke","id":"c","function":"f","detach":1}"#, "`detach`"),
            (
                r#"{"op":"invoke","id":"c","function":"f","detach":true,"on_parent_close":"cancel"}"#,
                "outlives",
            ),
            (
                r#"{"op":"invoke","id":"c","function":"f","key":"k","if_running":"use_existing"}"#,
                "needs `detach`",
            ),
            (r#"{"op":"invoke","id":"c","function":"f","if_running":"fail"}"#, "`key`"),
            (r#"{"op":"invoke","id":"c","function":"f","on_parent_close":"x"}"#, "abandon"),
            (r#"{"op":"invoke","id":"c","function":"f","tags":{"a":1}}"#, "`tags`"),
            (r#"{"op":"send","id":"s","signal":"go"}"#, "`run`"),
            (r#"{"op":"send","id":"s","run":"x","key":"k","signal":"go"}"#, "`run`"),
            (r#"{"op":"send","id":"s","run":"order-1","signal":"go"}"#, "`run`"),
            (r#"{"op":"cancel","id":"s"}"#, "run"),
            (r#"{"op":"cancel","id":"s","run":"run_x","signal":"y"}"#, "unknown field"),
        ] {
            let refused = read(op).expect_err(op);
            assert!(refused.contains(said), "{op}: {refused}");
        }
    }
}
