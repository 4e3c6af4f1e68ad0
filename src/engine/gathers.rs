//! Starts that are gathered: a function takes those that come within a time as one run, whose input is
//! the list of theirs.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::admission::{PAGE, PUT_OFF};
use super::lanes::Line;
use super::{Engine, Error, Namespace, RunView, Start, Started, Status};
use crate::machine::RunId;
use crate::protocol::{Gather, MAX_INPUT};
use crate::store::{self, GatherOutcome, NewGathered, NewRun};

/// What the brackets of a list take.
const BRACKETS: i64 = 2;

/// The list of inputs, each byte for byte.
fn list<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut all = vec![b'['];
    for input in inputs {
        if all.len() > 1 {
            all.push(b',');
        }
        all.extend_from_slice(input);
    }
    all.push(b']');
    all.into()
}

/// The input of a run of a function that gathers, where it is started alone.
pub(super) fn alone(input: &RawValue) -> Box<RawValue> {
    RawValue::from_string(format!("[{}]", input.get())).expect("a list of JSON is JSON")
}

impl Engine {
    /// A start of a function that gathers its starts.
    pub(super) fn to_gather(
        &self,
        function: i32,
        gather: &Gather,
        start: &Start,
    ) -> Result<NewGathered, Error> {
        for (field, given) in [
            ("key", start.key.is_some()),
            ("start_at", start.start_at.is_some()),
            ("signal", start.signal.is_some()),
            ("version", start.deployment.is_some()),
            ("tags", !start.tags.is_empty()),
            ("priority", start.priority != 0),
            ("timeouts", start.run_timeout.is_some() || start.start_timeout.is_some()),
            ("timeouts", start.invocation_timeout.is_some()),
            ("retry", start.retry.is_some()),
            ("on_complete", !start.on_complete.is_empty()),
        ] {
            if given {
                let detail = "has no meaning for a function with `gather`: its run is that of \
                    many starts";
                return Err(Error::Invalid(format!("/{field}"), detail.to_owned()));
            }
        }
        let now = self.clock().upper();
        let shard = self.shard_of(&start.namespace.name, &start.function, None, None);
        let key = gather.key.as_ref().map_or_else(String::new, |path| path.value_in(&start.input));
        Ok(NewGathered {
            ns: start.namespace.id,
            function_id: function,
            key,
            run: RunId::on_shard(now, shard, crate::clock::chance()),
            at: now,
            due_at: now + gather.timeout,
            size: i32::try_from(gather.size).unwrap_or(i32::MAX),
            most_bytes: i64::try_from(MAX_INPUT).unwrap_or(i64::MAX) - BRACKETS,
            input: Bytes::copy_from_slice(start.input.get().as_bytes()),
            by: start.by.clone(),
            idem: self.idem_of(start),
        })
    }

    /// Takes a start into the run of its key that has not begun. When this returns, it is durable.
    pub(super) async fn gather(
        &self,
        function: i32,
        gather: &Gather,
        start: &Start,
    ) -> Result<Started, Error> {
        self.admit()?;
        let new = self.to_gather(function, gather, start)?;
        let dep = self.catalog().function(new.ns, &start.function).map_or(0, |f| f.dep);
        if let Err(refusal) = self.admits_to(start, dep).await {
            let known = match &new.idem {
                Some(idem) => self.store().knows_idem(new.ns, idem).await?,
                None => false,
            };
            if !known {
                return Err(refusal);
            }
        }
        match self.store().gather(&new).await? {
            GatherOutcome::Gathered(run) if run == new.run => Ok(Started::New(run)),
            GatherOutcome::Gathered(run) => Ok(Started::Existing(run)),
            GatherOutcome::Same(run) => Ok(Started::Replayed(run)),
            GatherOutcome::Reused => Err(Error::IdempotencyKeyReused),
        }
    }

    /// A run that still gathers.
    pub(super) async fn gathering(
        &self,
        ns: &Namespace,
        id: RunId,
    ) -> Result<Option<RunView>, Error> {
        let Some(kept) = self.store().gather_of(ns.id, id).await? else { return Ok(None) };
        let catalog = self.catalog();
        let function = catalog.recorded.function(kept.function_id);
        let Some(function) = function else { return Ok(None) };
        let start = Self::gathered_start(&kept, ns.clone(), function.name.clone())?;
        let input = Bytes::from(start.input.get().to_owned());
        let mut view = RunView::of_start(&start, input, kept.first_at, id);
        view.status = Status::Scheduled;
        view.attention = Some(crate::machine::Attention {
            next_attempt_at: Some(kept.due_at),
            ..crate::machine::Attention::new(
                "gathering",
                match kept.inputs.len() {
                    1 => "It has 1 start so far".to_owned(),
                    n => format!("It has {n} starts so far"),
                } + ", and begins when it is full or its time has come.",
            )
        });
        Ok(Some(view))
    }

    /// Begins the runs that are full or whose time has come, a page of them in one transaction.
    /// Returns whether there may be more.
    pub(super) async fn begin_gathered(&self, line: &mut Line) -> store::Result<bool> {
        let now = self.clock().lower();
        let Some((mut delivery, due)) = line.get().await.due_gathers(now, PAGE).await? else {
            return Ok(false);
        };
        let more = i64::try_from(due.len()).is_ok_and(|n| n >= PAGE);
        let (mut news, mut done, mut put_off) = (Vec::new(), Vec::new(), Vec::new());
        for kept in &due {
            match self.run_of_gather(kept) {
                Ok(new) => {
                    news.push(new);
                    done.push(kept.run);
                }
                Err(error) => {
                    tracing::warn!(run.id = %kept.run, %error, "gathered starts are put off");
                    put_off.push(kept.run);
                }
            }
        }
        self.begin_waiting(&news, async {
            let outcomes = delivery.create(&news).await?;
            delivery.gathered(&done).await?;
            delivery.put_off_gathers(&put_off, now + PUT_OFF).await?;
            delivery.commit().await?;
            Ok(outcomes)
        })
        .await?;
        Ok(more)
    }

    fn run_of_gather(&self, kept: &store::Gather) -> Result<NewRun, Error> {
        let catalog = self.catalog();
        let namespace = catalog.namespace(kept.ns);
        let function = catalog.recorded.function(kept.function_id);
        let (Some(namespace), Some(function)) = (namespace, function) else {
            return Err(Error::FunctionNotFound(kept.function_id.to_string()));
        };
        let start = Self::gathered_start(kept, namespace, function.name.clone())?;
        self.new_run_of(&start, None, Some((kept.run, None)))
    }

    fn gathered_start(
        kept: &store::Gather,
        namespace: Namespace,
        function: String,
    ) -> Result<Start, Error> {
        let input = list(kept.inputs.iter().map(|input| &**input));
        let input = serde_json::from_slice(&input)
            .map_err(|e| Error::corrupt(&format!("gathered starts: {e}")))?;
        Ok(Start { gathered: true, ..Start::new(namespace, function, input, kept.by.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_stay_as_they_are() {
        assert_eq!(&list([])[..], b"[]");
        assert_eq!(
            &list([&b"1.0"[..], b"{ \"a\" :3544790567247868102}"])[..],
            b"[1.0,{ \"a\" :3544790567247868102}]"
        );
        let input = RawValue::from_string("{ \"a\" : 1 }".to_owned()).expect("JSON");
        assert_eq!(alone(&input).get(), "[{ \"a\" : 1 }]");
    }
}
