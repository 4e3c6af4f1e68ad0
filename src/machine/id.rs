//! Typed ids (`run_…`, `dep_…`): UUIDv7 in TypeID form, and the shard that a run id carries.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::time::Timestamp;

/// Crockford's base32 in lower case, the alphabet of TypeID suffixes.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Number of logical shards. For ever: shards are part of every key.
pub const SHARDS: u16 = 4096;
/// Number of lease groups: a group is sixteen neighbouring shards.
pub const GROUPS: u16 = 256;

/// A text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of the form `{prefix}_` and 26 characters")]
pub struct BadId {
    /// What was given.
    pub text: String,
    /// The prefix that was expected.
    pub prefix: &'static str,
}

fn encode(prefix: &str, id: Uuid) -> String {
    let mut value = id.as_u128();
    let mut out = [0u8; 26];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    let mut text = String::with_capacity(prefix.len() + 27);
    text.push_str(prefix);
    text.push('_');
    text.extend(out.iter().map(|b| char::from(*b)));
    text
}

fn decode(prefix: &'static str, text: &str) -> Result<Uuid, BadId> {
    let bad = || BadId { text: text.chars().take(64).collect(), prefix };
    let suffix = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .filter(|s| s.len() == 26)
        .ok_or_else(bad)?;
    let mut value: u128 = 0;
    for (i, byte) in suffix.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|a| *a == byte).ok_or_else(bad)? as u128;
        // 26 digits hold 130 bits: the first may use only three of its five.
        if i == 0 && digit > 7 {
            return Err(bad());
        }
        value = (value << 5) | digit;
    }
    Ok(Uuid::from_u128(value))
}

/// A UUIDv7 made of a moment and 74 bits of chance.
fn v7(at: Timestamp, chance: u128) -> u128 {
    let millis = u128::from(at.as_millis().max(0).unsigned_abs()) & 0xffff_ffff_ffff;
    let rand_a = (chance >> 64) & 0xfff;
    let rand_b = chance & ((1 << 62) - 1);
    (millis << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What the text form begins with, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id from a moment and chance (the low 74 bits are used).
            #[must_use]
            pub fn new(at: Timestamp, chance: u128) -> Self {
                Self(Uuid::from_u128(v7(at, chance)))
            }

            /// The id as Postgres keeps it.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode($prefix, self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                decode($prefix, text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&encode($prefix, self.0))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

typed_id!(
    /// A run: one durable execution of a function. Carries its shard.
    RunId, "run"
);
typed_id!(
    /// An invocation: one HTTP exchange with a handler.
    InvocationId, "inv"
);
typed_id!(
    /// A deployment: one immutable registration of an endpoint.
    DeploymentId, "dep"
);
typed_id!(
    /// An endpoint: a URL that hosts functions.
    EndpointId, "end"
);
typed_id!(
    /// A message on its way to a run.
    MessageId, "msg"
);
typed_id!(
    /// An event. Carries its shard.
    EventId, "evt"
);
typed_id!(
    /// A schedule. Carries its shard.
    ScheduleId, "sch"
);
typed_id!(
    /// An act on many runs. Carries its shard.
    BulkId, "blk"
);
typed_id!(
    /// An update: a signal whose sender waits for an answer. As a message it has the same UUID.
    UpdateId, "upd"
);
typed_id!(
    /// A webhook: a receiver that is told of what happens in a namespace.
    WebhookId, "whk"
);
typed_id!(
    /// An API key.
    KeyId, "key"
);
typed_id!(
    /// An entry of the audit log.
    AuditId, "aud"
);
typed_id!(
    /// One process of the gateway, new at each start.
    NodeId, "nod"
);

impl MessageId {
    /// The identity of what row `n` of a run says to others, or (`part` 1) of what it is told of
    /// that: the same whoever brings it, and how often.
    #[must_use]
    pub fn of_outgoing(run: RunId, n: i32, k: i16, part: u8) -> Self {
        let mut hash = Sha256::new();
        hash.update(run.0.as_bytes());
        hash.update(n.to_be_bytes());
        hash.update(k.to_be_bytes());
        hash.update([part]);
        Self(uuid::Builder::from_custom_bytes(first_half(&hash.finalize())).into_uuid())
    }
}

impl MessageId {
    /// The identity of an event at a step that waits for it: the same however often it is found.
    #[must_use]
    pub fn of_event(event: EventId, run: RunId, step: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"event");
        hash.update(event.0.as_bytes());
        hash.update(run.0.as_bytes());
        hash.update(step);
        Self(uuid::Builder::from_custom_bytes(first_half(&hash.finalize())).into_uuid())
    }
}

impl MessageId {
    /// The identity of what an act on many runs sends to one: the same however often it is sent.
    #[must_use]
    pub fn of_bulk(bulk: BulkId, run: RunId) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"bulk");
        hash.update(bulk.0.as_bytes());
        hash.update(run.0.as_bytes());
        Self(uuid::Builder::from_custom_bytes(first_half(&hash.finalize())).into_uuid())
    }
}

impl BulkId {
    /// A new id on this shard.
    #[must_use]
    pub fn on_shard(at: Timestamp, shard: Shard, chance: u128) -> Self {
        Self(RunId::on_shard(at, shard, chance).0)
    }

    /// The shard that it is kept on.
    #[must_use]
    pub fn shard(self) -> Shard {
        RunId(self.0).shard()
    }
}

impl UpdateId {
    /// The id of what its sender calls `own`: the same however often it is sent.
    #[must_use]
    pub fn of_sender(run: RunId, name: &str, own: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"update");
        hash.update(run.0.as_bytes());
        hash.update(name);
        hash.update([0]);
        hash.update(own);
        Self(uuid::Builder::from_custom_bytes(first_half(&hash.finalize())).into_uuid())
    }
}

impl EventId {
    /// A new id of what `source` calls `source_id`, on the shard of that identity.
    #[must_use]
    pub fn of_source(
        namespace: &str,
        source: &str,
        source_id: &str,
        at: Timestamp,
        chance: u128,
    ) -> Self {
        let shard = Shard::of_parts(&["event", namespace, source, source_id]);
        Self(RunId::on_shard(at, shard, chance).0)
    }

    /// The shard that this event is kept on.
    #[must_use]
    pub fn shard(self) -> Shard {
        RunId(self.0).shard()
    }
}

impl ScheduleId {
    /// A new id on any shard.
    #[must_use]
    pub fn anywhere(at: Timestamp, chance: u128) -> Self {
        let shard = Shard(((chance >> 100) & 0xfff) as u16);
        Self(RunId::on_shard(at, shard, chance).0)
    }

    /// The shard that this schedule is kept on.
    #[must_use]
    pub fn shard(self) -> Shard {
        RunId(self.0).shard()
    }
}

/// The first sixteen bytes of a digest.
fn first_half(digest: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

impl RunId {
    /// The run that row `n` of `parent` starts: the same whoever computes it. Without a shard of
    /// its own it lives in the parent's lease group, so that one node drives both.
    #[must_use]
    pub fn of_child(parent: Self, n: i32, at: Timestamp, shard: Option<Shard>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"child");
        hash.update(parent.0.as_bytes());
        hash.update(n.to_be_bytes());
        let chance = u128::from_be_bytes(first_half(&hash.finalize()));
        let near = || {
            let within = u16::try_from((chance >> 100) & 0xf).unwrap_or(0);
            Shard((parent.shard().0 & 0xff0) | within)
        };
        Self::on_shard(at, shard.unwrap_or_else(near), chance)
    }

    /// A new run id that lives on `shard`: the shard sits in the top twelve bits of `rand_b`.
    #[must_use]
    pub fn on_shard(at: Timestamp, shard: Shard, chance: u128) -> Self {
        let mask: u128 = 0xfff << 50;
        let id = (v7(at, chance) & !mask) | (u128::from(shard.0) << 50);
        Self(Uuid::from_u128(id))
    }

    /// The shard that this run lives on.
    #[must_use]
    pub fn shard(self) -> Shard {
        Shard(((self.0.as_u128() >> 50) & 0xfff) as u16)
    }

    /// The run of a function that an event starts: the same whoever computes it.
    #[must_use]
    pub fn of_event(event: EventId, function: &str, at: Timestamp, shard: Option<Shard>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"trigger");
        hash.update(event.0.as_bytes());
        hash.update(function);
        let chance = u128::from_be_bytes(first_half(&hash.finalize()));
        let any = Shard(((chance >> 100) & 0xfff) as u16);
        Self::on_shard(at, shard.unwrap_or(any), chance)
    }

    /// The id of a run that was imported into a namespace where it cannot have its own: of the same
    /// moment, and the same each time.
    #[must_use]
    pub fn in_namespace(self, namespace: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"import");
        hash.update(self.0.as_bytes());
        hash.update(namespace);
        let chance = u128::from_be_bytes(first_half(&hash.finalize()));
        let millis = i64::try_from(self.0.as_u128() >> 80).unwrap_or(i64::MAX);
        let at = Timestamp::from_micros(millis.saturating_mul(1_000));
        Self::on_shard(at, Shard(((chance >> 100) & 0xfff) as u16), chance)
    }

    /// The earliest id of a moment: the lower bound of what was created from then on.
    #[must_use]
    pub fn floor(at: Timestamp) -> Self {
        Self(Uuid::from_u128(u128::from(at.as_millis().max(0).unsigned_abs()) << 80))
    }
}

/// A fixed slice of all runs, 0 to 4095.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u16);

impl Shard {
    /// The shard of a run with a key: all runs of one key live on one shard.
    #[must_use]
    pub fn of_key(namespace: &str, function: &str, key: &str) -> Self {
        Self::of_parts(&[namespace, function, key])
    }

    /// The shard of a run that has only an idempotency key.
    #[must_use]
    pub fn of_idempotency_key(namespace: &str, key: &str) -> Self {
        Self::of_parts(&[namespace, key])
    }

    /// First twelve bits of the SHA-256 of the parts, a zero byte between them.
    fn of_parts(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                hash.update([0]);
            }
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        Self((u16::from(digest[0]) << 4) | (u16::from(digest[1]) >> 4))
    }

    /// The lease group of this shard.
    #[must_use]
    pub const fn group(self) -> u8 {
        self.0.to_be_bytes()[0] << 4 | self.0.to_be_bytes()[1] >> 4
    }

    /// As a column value.
    #[must_use]
    pub const fn column(self) -> i16 {
        self.0.cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id = RunId::new(Timestamp::from_micros(1_700_000_000_000_000), u128::MAX);
        let text = id.to_string();
        assert!(text.starts_with("run_") && text.len() == 30, "{text}");
        assert_eq!(text.parse::<RunId>(), Ok(id));
        assert!(text.replace("run_", "dep_").parse::<RunId>().is_err());
        assert!("run_8zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<RunId>().is_err());
    }

    #[test]
    fn a_run_id_carries_its_shard_and_stays_a_uuid_v7() {
        for shard in [0, 1, 0xabc, 0xfff] {
            let id = RunId::on_shard(Timestamp::from_micros(5_000), Shard(shard), u128::MAX);
            assert_eq!(id.shard(), Shard(shard));
            assert_eq!(id.uuid().get_version_num(), 7);
            assert_eq!(id.uuid().get_variant(), uuid::Variant::RFC4122);
        }
    }
}
