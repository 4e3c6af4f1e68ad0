//! Many starts in one transaction, among which several may be after the same run key.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{Connection as _, Row as _};

use super::create::{create_on, hold_objects};
use super::error::{Error, Result};
use super::{CreateOutcome, IfClosed, Lane, NewRun, SILENCE, heard, wire};
use crate::machine::RunId;

/// What the same requests have started before.
pub(super) const KNOWN_STARTS: &str = "select u.ord, e.run_id, e.hash = u.hash as same
  from unnest($1::int2[],$2::int4[],$3::text[],$4::bytea[]) with ordinality
    as u(shard,ns,key,hash,ord)
  join idem e on e.shard = u.shard and e.ns = u.ns and e.key = u.key and e.expires_at > now()";

/// How often a batch that met a concurrent request with the same idempotency key is tried.
const TRIES: u32 = 5;

impl Lane {
    /// Starts runs, each or not, in one transaction. Several may be after the same key: the first
    /// has it then, as if they had come one after the other. Outcomes are in the order of the batch.
    ///
    /// Where an idempotency key was used with another body nothing is started, and every outcome says
    /// so. Repeating a call with the same run ids is harmless.
    pub async fn create_batch(&mut self, batch: &[NewRun]) -> Result<Vec<CreateOutcome>> {
        for attempt in 1.. {
            let mut tx = heard(SILENCE, self.conn.begin()).await?;
            match all(&mut tx, batch).await {
                Ok(outcomes) if outcomes.contains(&CreateOutcome::IdemReused) => {
                    heard(SILENCE, tx.rollback()).await?;
                    return Ok(vec![CreateOutcome::IdemReused; batch.len()]);
                }
                Ok(outcomes) => {
                    heard(SILENCE, tx.commit()).await?;
                    return Ok(outcomes);
                }
                // A concurrent request with the same idempotency key committed first: now it can
                // be seen.
                Err(Error::Conflict { constraint, .. })
                    if constraint == "idem_pkey" && attempt < TRIES => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy("a run key changed hands too often".to_owned()))
    }
}

type Key<'a> = (i32, i32, &'a str);

/// The run key for which a start has to be the only one of a statement. Of an object there may be
/// many: they have an order.
fn key_of(new: &NewRun) -> Option<Key<'_>> {
    let key = new.key.as_ref().filter(|_| new.object.is_none())?;
    Some((new.ns, new.function_id, key.key.as_str()))
}

/// Whether a key that this outcome leaves held is held against a later start too; by whom then.
fn held_against(new: &NewRun, first: &NewRun, outcome: CreateOutcome) -> Option<CreateOutcome> {
    let (run, status) = match outcome {
        CreateOutcome::Created => (first.run, None),
        CreateOutcome::KeyHeld { run, status } => (run, status),
        _ => return None,
    };
    let free = match (status, new.key.as_ref()?.if_closed) {
        (None, _) | (Some(_), IfClosed::Reject) => false,
        (Some(_), IfClosed::Allow) => true,
        (Some(status), IfClosed::AllowIfFailed) => status != 100,
    };
    (!free).then_some(CreateOutcome::KeyHeld { run, status })
}

/// The first of each key, and then those of the others that what came of it does not decide.
pub(super) async fn all(conn: &mut PgConnection, batch: &[NewRun]) -> Result<Vec<CreateOutcome>> {
    let mut outcomes: Vec<Option<CreateOutcome>> = vec![None; batch.len()];
    let mut first = true;
    hold_objects(conn, batch.iter()).await?;
    loop {
        let mut keys = HashSet::new();
        let open = (0..batch.len()).filter(|i| outcomes[*i].is_none());
        let (turn, later): (Vec<usize>, Vec<usize>) =
            open.partition(|i| key_of(&batch[*i]).is_none_or(|key| keys.insert(key)));
        if turn.is_empty() {
            break;
        }
        let told = if turn.len() == batch.len() {
            create_on(conn, batch).await?
        } else {
            let runs: Vec<NewRun> = turn.iter().map(|i| batch[*i].clone()).collect();
            create_on(conn, &runs).await?
        };
        let mut by_key: HashMap<Key<'_>, usize> = HashMap::new();
        for (i, outcome) in turn.into_iter().zip(told) {
            outcomes[i] = Some(outcome);
            by_key.extend(key_of(&batch[i]).map(|key| (key, i)));
        }
        if std::mem::take(&mut first) {
            for (i, outcome) in known(conn, batch, &later).await? {
                outcomes[i] = Some(outcome);
            }
        }
        for i in later.into_iter().filter(|i| outcomes[*i].is_none()).collect::<Vec<_>>() {
            let before = key_of(&batch[i]).and_then(|key| by_key.get(&key).copied());
            outcomes[i] = before.and_then(|b| held_against(&batch[i], &batch[b], outcomes[b]?));
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Which of these starts the same request has made before.
async fn known(
    conn: &mut PgConnection,
    batch: &[NewRun],
    some: &[usize],
) -> Result<Vec<(usize, CreateOutcome)>> {
    let asked: Vec<(usize, &super::Idem)> =
        some.iter().filter_map(|i| Some((*i, batch[*i].idem.as_ref()?))).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(KNOWN_STARTS)
        .bind(asked.iter().map(|(_, idem)| idem.shard.column()).bind_iter())
        .bind(asked.iter().map(|(i, _)| batch[*i].ns).bind_iter())
        .bind(asked.iter().map(|(_, idem)| idem.key.as_str()).bind_iter())
        .bind(asked.iter().map(|(_, idem)| idem.hash.as_slice()).bind_iter());
    let rows = heard(SILENCE, query.fetch_all(conn)).await?;
    rows.iter()
        .map(|row| {
            let ord: i64 = row.try_get("ord")?;
            let at = usize::try_from(ord - 1).unwrap_or(usize::MAX);
            let (i, _) = asked.get(at).ok_or_else(|| Error::corrupt("a row too many"))?;
            let run: RunId = wire::run_id(row)?;
            Ok((
                *i,
                match row.try_get("same")? {
                    // A repeat of this very call.
                    true if run == batch[*i].run => CreateOutcome::Created,
                    true => CreateOutcome::IdemSame(run),
                    false => CreateOutcome::IdemReused,
                },
            ))
        })
        .collect()
}
