//! The arguments of the commands that are a gateway or look after its database.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use url::Url;

use super::jwt::JwtArgs;
use super::secret::Secret;
use crate::machine::Allowance;
use crate::machine::time::parse_duration;

/// `stepwell dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Port of API and dashboard; 0 takes a free one.
    #[arg(long, default_value_t = 8484)]
    pub port: u16,
    /// Address to listen on. API keys are not asked for on loopback alone.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen: IpAddr,
    /// Where the private Postgres and everything else is kept.
    #[arg(long, value_name = "DIR", default_value = ".stepwell")]
    pub data_dir: PathBuf,
    /// Keep nothing: a Postgres that is thrown away at the end.
    #[arg(long, conflicts_with_all = ["data_dir", "database_url"])]
    pub ephemeral: bool,
    /// Use this database instead of a private Postgres.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<Secret>,
    /// Register the handler at this URL once it answers; may be repeated.
    #[arg(short = 'u', long = "endpoint", value_name = "URL")]
    pub endpoints: Vec<Url>,
    /// Start a run of a demo function that needs no handler. On loopback alone.
    #[arg(long)]
    pub demo: bool,
    /// How to write logs.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
    /// Which logs: `info`, or `warn,stepwell=debug`.
    #[arg(long, env = "STEPWELL_LOG_FILTER", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
    /// A command to run beside the gateway, with `STEPWELL_URL` and `STEPWELL_SIGNING_SECRET`.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `stepwell serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The database.
    #[command(flatten)]
    pub database: Database,
    /// Address and port to listen on.
    #[arg(long, env = "STEPWELL_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8484")]
    pub listen: SocketAddr,
    /// Address at which the other nodes reach this one [default: made of the host's name and the port].
    #[arg(long, env = "STEPWELL_ADVERTISE", value_name = "URL")]
    pub advertise: Option<Url>,
    /// Base of the links in answers and invocations, as handlers and users reach the gateway.
    #[arg(long, env = "STEPWELL_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<Url>,
    /// Sign calls to handlers with the cluster's public key too (Standard Webhooks `v1a`).
    #[arg(long, env = "STEPWELL_SIGN_PUBLICLY")]
    pub sign_publicly: bool,
    /// How long ended runs are kept, at least a day; they go by whole weeks.
    #[arg(long, env = "STEPWELL_RETENTION", value_name = "DURATION", default_value = "30d", value_parser = parse_retention)]
    pub retention: Duration,
    /// Where ended runs are written to as JSON Lines before they are deleted: `file:///var/lib/…`, `s3://bucket/prefix`.
    #[arg(long, env = "STEPWELL_ARCHIVE", value_name = "URL", value_parser = parse_archive)]
    pub archive: Option<ArchiveUrl>,
    /// Let endpoints resolve to private, loopback and link-local addresses.
    #[arg(
        long = "dangerous-allow-private-endpoints",
        alias = "allow-private-endpoints",
        env = "STEPWELL_DANGEROUS_ALLOW_PRIVATE_ENDPOINTS"
    )]
    pub allow_private_endpoints: bool,
    /// Who is let in without an API key.
    #[command(flatten)]
    pub jwt: JwtArgs,
    /// Requests with one API key to this node, such as `100/10s`; `off` for any number.
    #[arg(long, env = "STEPWELL_RATE_LIMIT", value_name = "N/PERIOD", default_value = "20000/1s", value_parser = parse_rate)]
    pub rate_limit: Rate,
    /// Requests without a valid credential from one address to this node; `off` for any number.
    #[arg(long, env = "STEPWELL_ADDRESS_RATE_LIMIT", value_name = "N/PERIOD", default_value = "100/10s", value_parser = parse_rate)]
    pub address_rate_limit: Rate,
    /// Worker threads [default: 1].
    #[arg(long, env = "STEPWELL_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Send traces to this OTLP collector.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Url>,
    /// How to write logs.
    #[arg(long, env = "STEPWELL_LOG", value_enum, default_value_t = LogFormat::Json)]
    pub log: LogFormat,
    /// Which logs: `info`, or `warn,stepwell=debug`.
    #[arg(long, env = "STEPWELL_LOG_FILTER", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the database is.
#[derive(Debug, Clone, Args)]
pub struct Database {
    /// Address of the database, `postgres://user:password@host/name`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Secret,
}

/// `stepwell migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: MigrateAction,
}

/// What `stepwell migrate` does.
#[derive(Debug, Clone, Subcommand)]
pub enum MigrateAction {
    /// Apply the migrations that are missing.
    Up(Database),
    /// List the migrations with what is applied.
    Status(Database),
    /// Print the SQL of the migrations, for those who apply it by other means.
    Print {
        /// Only those after this version.
        #[arg(long, value_name = "VERSION")]
        from: Option<i64>,
    },
}

/// `stepwell doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The database.
    #[command(flatten)]
    pub database: Database,
    /// Where ended runs are written to, as `serve` has it.
    #[arg(long, env = "STEPWELL_ARCHIVE", value_name = "URL", value_parser = parse_archive)]
    pub archive: Option<ArchiveUrl>,
}

/// `stepwell openapi`.
#[derive(Debug, Clone, Args)]
pub struct OpenapiArgs {
    /// As JSON instead of YAML.
    #[arg(long)]
    pub json: bool,
}

/// How many requests may be sent; none: any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<Allowance>);

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "off" { Ok(Rate(None)) } else { text.parse().map(|a| Rate(Some(a))) }
}

/// Where ended runs are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveUrl {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket of a store that speaks S3.
    Bucket {
        /// Its name.
        name: String,
        /// What objects are named after, without slashes around it; may be empty.
        prefix: String,
    },
}

fn parse_archive(text: &str) -> Result<ArchiveUrl, String> {
    let wrong = || {
        "must be a folder, such as `file:///var/lib/stepwell/archive`, or a bucket, such as \
         `s3://bucket/prefix`"
            .to_owned()
    };
    let url: Url = text.parse().map_err(|_| wrong())?;
    match url.scheme() {
        "file" => url.to_file_path().map(ArchiveUrl::Folder).map_err(|()| wrong()),
        "s3" => {
            let more = url.port().is_some() || url.query().is_some() || url.fragment().is_some();
            if more || !url.username().is_empty() || url.password().is_some() {
                return Err(
                    "has more than a bucket and a prefix; where the store is and who asks \
                            it is in AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …"
                        .to_owned(),
                );
            }
            let name = url.host_str().unwrap_or_default().to_owned();
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if !(3..=63).contains(&name.len()) || !name.chars().all(fits) {
                return Err(
                    "names no bucket: its name has 3 to 63 letters, digits, `-`, `.`, `_`, \
                            as in `s3://bucket/prefix`"
                        .to_owned(),
                );
            }
            let prefix = url.path().trim_matches('/').to_owned();
            let fits = |c: char| fits(c) || matches!(c, '/' | '=');
            if !prefix.chars().all(fits) || prefix.contains("//") {
                return Err("has a prefix with other characters than letters, digits, `-`, `.`, \
                            `_`, `=` and single slashes"
                    .to_owned());
            }
            Ok(ArchiveUrl::Bucket { name, prefix })
        }
        _ => Err(wrong()),
    }
}

/// How long ended runs are kept.
fn parse_retention(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)?;
    if length < Duration::from_hours(24) {
        return Err("must be at least a day, such as `7d`".to_owned());
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_a_folder_or_a_bucket() {
        let bucket = |name: &str, prefix: &str| {
            Ok(ArchiveUrl::Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
        };
        assert_eq!(parse_archive("file:///a/b"), Ok(ArchiveUrl::Folder("/a/b".into())));
        assert_eq!(parse_archive("s3://Runs_1"), bucket("Runs_1", ""));
        assert_eq!(parse_archive("s3://runs/a/b=c/"), bucket("runs", "a/b=c"));
        for (text, says) in [
            ("/a/b", "must be a folder"),
            ("http://a/b", "must be a folder"),
            ("s3:///a", "names no bucket"),
            ("s3://ab", "names no bucket"),
            ("s3://key:secret@runs/a", "AWS_ACCESS_KEY_ID"),
            ("s3://runs/a?region=x", "more than a bucket"),
            ("s3://runs/a//b", "single slashes"),
            ("s3://runs/a%20b", "single slashes"),
        ] {
            let wrong = parse_archive(text).expect_err(text);
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
    }
}
