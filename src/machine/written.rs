//! How moments and payloads are written in the bodies of rows.

/// `#[serde(with = "micros")]` for a moment that is kept as exactly as in the journal's columns.
pub(super) mod micros {
    use crate::machine::Timestamp;
    use serde::Deserialize as _;

    /// Writes it.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
    pub(in crate::machine) fn serialize<S: serde::Serializer>(
        at: &Timestamp,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_i64(at.as_micros())
    }

    /// Reads it.
    pub(in crate::machine) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Timestamp, D::Error> {
        i64::deserialize(d).map(Timestamp::from_micros)
    }

    /// The same for one that may be left out.
    pub(in crate::machine) mod option {
        use crate::machine::Timestamp;
        use serde::{Deserialize as _, Serialize as _};

        /// Writes it.
        #[expect(clippy::ref_option, reason = "serde asks for it so")]
        pub(in crate::machine) fn serialize<S: serde::Serializer>(
            at: &Option<Timestamp>,
            s: S,
        ) -> Result<S::Ok, S::Error> {
            at.map(Timestamp::as_micros).serialize(s)
        }

        /// Reads it.
        pub(in crate::machine) fn deserialize<'de, D: serde::Deserializer<'de>>(
            d: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            Ok(Option::<i64>::deserialize(d)?.map(Timestamp::from_micros))
        }
    }
}

/// `#[serde(with = "json")]` for bytes that are JSON: they are kept as they are, in a string.
pub(super) mod json {
    use bytes::Bytes;
    use serde::{Deserialize as _, Serialize as _};

    fn text<E: serde::ser::Error>(json: &Bytes) -> Result<&str, E> {
        std::str::from_utf8(json).map_err(serde::ser::Error::custom)
    }

    /// Writes them.
    pub(in crate::machine) fn serialize<S: serde::Serializer>(
        json: &Bytes,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        text(json)?.serialize(s)
    }

    /// Reads them.
    pub(in crate::machine) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Bytes, D::Error> {
        String::deserialize(d).map(Bytes::from)
    }

    /// The same for some that may be left out.
    pub(in crate::machine) mod option {
        use bytes::Bytes;
        use serde::{Deserialize as _, Serialize as _};

        /// Writes them.
        #[expect(clippy::ref_option, reason = "serde asks for it so")]
        pub(in crate::machine) fn serialize<S: serde::Serializer>(
            json: &Option<Bytes>,
            s: S,
        ) -> Result<S::Ok, S::Error> {
            json.as_ref().map(super::text).transpose()?.serialize(s)
        }

        /// Reads them.
        pub(in crate::machine) fn deserialize<'de, D: serde::Deserializer<'de>>(
            d: D,
        ) -> Result<Option<Bytes>, D::Error> {
            Ok(Option::<String>::deserialize(d)?.map(Bytes::from))
        }
    }
}
