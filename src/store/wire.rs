//! How moments, bodies and journal rows travel to and from columns.

use bytes::Bytes;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, PgValueRef,
};
use sqlx::{Decode, Encode, Postgres, Row as _, Type};
use uuid::Uuid;

use super::error::{Error, Result};
use crate::machine::{Flags, Kind, Message, MessageId, MessageKind, RunId, Timestamp};

/// Microseconds from the Unix epoch to Postgres' epoch, 2000-01-01.
const EPOCH: i64 = 946_684_800_000_000;
/// What Postgres takes for a moment, in microseconds since its epoch: 4713 BC to AD 294276.
const FIRST: i64 = -211_813_488_000_000_000;
const LAST: i64 = 9_223_371_331_199_999_999;

/// A `timestamptz`. What Postgres cannot hold is `-infinity` or `infinity`, which read as the
/// least and the greatest [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ts(pub(super) Timestamp);

/// Before every moment.
pub(super) const MINUS_INFINITY: Timestamp = Timestamp::from_micros(i64::MIN);
/// After every moment.
pub(super) const INFINITY: Timestamp = Timestamp::from_micros(i64::MAX);

impl Type<Postgres> for Ts {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Ts {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Ts {
    fn encode_by_ref(
        &self,
        buf: &mut PgArgumentBuffer,
    ) -> std::result::Result<IsNull, BoxDynError> {
        let micros = match self.0.as_micros().saturating_sub(EPOCH) {
            m if m < FIRST => i64::MIN,
            m if m > LAST => i64::MAX,
            m => m,
        };
        buf.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Ts {
    fn decode(value: PgValueRef<'_>) -> std::result::Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Text {
            return Err("a timestamptz came as text; use a prepared statement".into());
        }
        let bytes: [u8; 8] = value.as_bytes()?.try_into()?;
        let micros = match i64::from_be_bytes(bytes) {
            i64::MIN => i64::MIN,
            m => m.saturating_add(EPOCH),
        };
        Ok(Self(Timestamp::from_micros(micros)))
    }
}

/// Opaque bytes on their way into a `bytea`: the format byte goes before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

/// The format byte of bytes as they are.
const RAW: u8 = 0;

impl Type<Postgres> for Raw<'_> {
    fn type_info() -> PgTypeInfo {
        <&[u8] as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Raw<'_> {
    fn array_type_info() -> PgTypeInfo {
        <&[u8] as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Raw<'_> {
    fn encode_by_ref(
        &self,
        buf: &mut PgArgumentBuffer,
    ) -> std::result::Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&[RAW]);
        buf.extend_from_slice(self.0);
        Ok(IsNull::No)
    }
}

/// The bytes behind the format byte.
pub(super) fn unwrap(stored: &[u8]) -> Result<&[u8]> {
    match stored.split_first() {
        Some((&RAW, body)) => Ok(body),
        Some((format, _)) => {
            Err(Error::corrupt(format!("body format {format}: a newer version wrote it")))
        }
        None => Err(Error::corrupt("a body without its format byte")),
    }
}

/// An optional body column, copied once.
pub(super) fn body(row: &PgRow, column: &str) -> Result<Option<Bytes>> {
    let stored: Option<&[u8]> = row.try_get(column)?;
    stored.map(|s| unwrap(s).map(Bytes::copy_from_slice)).transpose()
}

/// A moment column.
pub(super) fn at(row: &PgRow, column: &str) -> Result<Timestamp> {
    Ok(row.try_get::<Ts, _>(column)?.0)
}

/// An optional moment column; infinities are moments.
pub(super) fn maybe_at(row: &PgRow, column: &str) -> Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<Ts>, _>(column)?.map(|t| t.0))
}

/// Since when, by whom and why something is paused: `paused_at`, `paused_by`, `paused_reason`.
pub(super) fn paused(row: &PgRow) -> Result<Option<(Timestamp, String, Option<String>)>> {
    let Some(at) = maybe_at(row, "paused_at")? else { return Ok(None) };
    Ok(Some((at, row.try_get("paused_by")?, row.try_get("paused_reason")?)))
}

/// A run id column.
pub(super) fn run_id(row: &PgRow) -> Result<RunId> {
    Ok(row.try_get::<Uuid, _>("run_id")?.into())
}

/// The columns that [`journal_row`] reads.
macro_rules! journal_columns {
    () => {
        "j.n, j.kind, j.flags, j.seq, j.epoch, j.cp, j.ms, j.dep, j.at, j.due, j.ref, j.step, j.body"
    };
}
pub(super) use journal_columns;

/// A journal row as the machine knows it.
pub(super) fn journal_row(row: &PgRow) -> Result<crate::machine::Row> {
    let kind: i16 = row.try_get("kind")?;
    Ok(crate::machine::Row {
        n: row.try_get("n")?,
        kind: Kind::from_code(kind)
            .ok_or_else(|| Error::corrupt(format!("journal row of unknown kind {kind}")))?,
        flags: Flags(row.try_get("flags")?),
        seq: row.try_get("seq")?,
        epoch: row.try_get("epoch")?,
        cp: row.try_get("cp")?,
        ms: row.try_get("ms")?,
        dep: row.try_get("dep")?,
        at: at(row, "at")?,
        due: maybe_at(row, "due")?,
        refer: row.try_get("ref")?,
        step: row.try_get("step")?,
        body: body(row, "body")?,
        pos: 0,
    })
}

/// An inbox row as the machine knows it.
pub(super) fn message(row: &PgRow) -> Result<Message> {
    let kind: i16 = row.try_get("kind")?;
    Ok(Message {
        pos: row.try_get("pos")?,
        id: MessageId::from(row.try_get::<Uuid, _>("msg_id")?),
        kind: MessageKind::from_code(kind)
            .ok_or_else(|| Error::corrupt(format!("message of unknown kind {kind}")))?,
        name: row.try_get("name")?,
        body: body(row, "body")?.unwrap_or_default(),
        at: at(row, "at")?,
        generation: row.try_get("generation")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_lose_their_format_byte_and_unknown_formats_are_corrupt() {
        assert_eq!(unwrap(&[0, 1, 2]), Ok(&[1u8, 2][..]));
        assert_eq!(unwrap(&[0]), Ok(&[][..]));
        assert!(matches!(unwrap(&[1, 1, 2]), Err(Error::Corrupt(_))));
        assert!(matches!(unwrap(&[]), Err(Error::Corrupt(_))));
    }
}
