//! The arguments about tokens of an issuer elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use url::Url;

use super::secret::Secret;
use crate::machine::time::parse_duration;

/// Whose JWTs are taken beside API keys.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "JWTs")]
#[expect(clippy::struct_field_names, reason = "flags that belong together begin alike")]
pub struct JwtArgs {
    /// Take JWTs beside API keys, of this issuer (`iss`).
    #[arg(long, env = "STEPWELL_JWT_ISSUER", value_name = "ISS", requires = "jwt_audience")]
    pub jwt_issuer: Option<String>,
    /// What `aud` of a JWT must be or contain.
    #[arg(long, env = "STEPWELL_JWT_AUDIENCE", value_name = "AUD", requires = "jwt_issuer")]
    pub jwt_audience: Option<String>,
    /// Where the issuer's public keys are (JWKS); over https.
    #[arg(long, env = "STEPWELL_JWT_JWKS_URL", value_name = "URL", requires = "jwt_issuer", conflicts_with_all = ["jwt_jwks_file", "jwt_secret"])]
    pub jwt_jwks_url: Option<Url>,
    /// A file with the issuer's public keys (JWKS).
    #[arg(
        long,
        env = "STEPWELL_JWT_JWKS_FILE",
        value_name = "FILE",
        requires = "jwt_issuer",
        conflicts_with = "jwt_secret"
    )]
    pub jwt_jwks_file: Option<PathBuf>,
    /// The secret that is shared with the issuer, for HS256 alone; 32 bytes at least.
    #[arg(
        long,
        env = "STEPWELL_JWT_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        requires = "jwt_issuer"
    )]
    pub jwt_secret: Option<Secret>,
    /// The algorithms that are taken [default: HS256 with a secret, else all others].
    #[arg(
        long,
        env = "STEPWELL_JWT_ALGORITHMS",
        value_name = "ALG",
        value_enum,
        value_delimiter = ','
    )]
    pub jwt_algorithms: Vec<Algorithm>,
    /// The claim that names the namespace [default: none; the namespace is `default`].
    #[arg(long, env = "STEPWELL_JWT_NAMESPACE_CLAIM", value_name = "CLAIM")]
    pub jwt_namespace_claim: Option<String>,
    /// The claim that has the scopes: a list, or words with blanks between them.
    #[arg(long, env = "STEPWELL_JWT_SCOPES_CLAIM", value_name = "CLAIM", default_value = "scope")]
    pub jwt_scopes_claim: String,
    /// How far the issuer's clock may be off.
    #[arg(long, env = "STEPWELL_JWT_LEEWAY", value_name = "DURATION", default_value = "30s", value_parser = leeway)]
    pub jwt_leeway: Duration,
}

/// An algorithm that tokens may be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    #[value(name = "HS256")]
    Hs256,
    /// RSA with SHA-256.
    #[value(name = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[value(name = "ES256")]
    Es256,
    /// Ed25519.
    #[value(name = "EdDSA")]
    EdDsa,
}

fn leeway(text: &str) -> Result<Duration, String> {
    let leeway = parse_duration(text)?;
    if leeway > Duration::from_mins(5) {
        return Err("must be at most five minutes".to_owned());
    }
    Ok(leeway)
}
