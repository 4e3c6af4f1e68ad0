//! A bucket of ended runs in a store that speaks S3: each batch is an object of its own.
//!
//! An object is there whole or not at all: what is small goes with one request, what is large in
//! parts that become an object with the last request.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, MultipartUpload, ObjectStore, PutMultipartOptions,
    PutOptions, RetryConfig,
};

use super::{Place, Sheet, Written};
use crate::machine::NodeId;

/// Bytes of a part: stores take 10,000 of them, of 5 MiB at least.
const PART: usize = 8 << 20;
/// How long a request may take.
const REQUEST: Duration = Duration::from_mins(1);
/// How often it is repeated …
const REPEATS: usize = 4;
/// … and for how long.
const REPEATED: Duration = Duration::from_mins(1);
/// What objects say they are.
const CONTENT_TYPE: &str = "application/jsonl";

/// A bucket and what objects in it are named after.
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    words: Words,
    prefix: String,
}

/// Says what is wrong with a store.
#[derive(Debug, Clone)]
struct Words {
    name: String,
    bucket: String,
    /// Whether the environment names credentials, or who has them.
    credentials: bool,
}

impl Bucket {
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        // The builder of the client asks for one; elsewhere in this process somebody may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = AmazonS3Builder::new()
            .with_client_options(ClientOptions::new().with_timeout(REQUEST))
            .with_retry(RetryConfig {
                max_retries: REPEATS,
                retry_timeout: REPEATED,
                ..RetryConfig::default()
            });
        let (mut credentials, mut keys) = (false, 0);
        for (name, value) in environment.filter(|(name, value)| {
            // An empty variable is how some shells take one away.
            name.starts_with("AWS_") && !value.is_empty()
        }) {
            let Ok(key) = name.to_ascii_lowercase().parse() else { continue };
            credentials |= matches!(
                key,
                AmazonS3ConfigKey::AccessKeyId
                    | AmazonS3ConfigKey::SecretAccessKey
                    | AmazonS3ConfigKey::WebIdentityTokenFile
                    | AmazonS3ConfigKey::ContainerCredentialsRelativeUri
                    | AmazonS3ConfigKey::ContainerCredentialsFullUri
            );
            keys += usize::from(matches!(
                key,
                AmazonS3ConfigKey::AccessKeyId | AmazonS3ConfigKey::SecretAccessKey
            ));
            builder = builder.with_config(key, value);
        }
        if keys == 1 {
            let both = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are needed together";
            return Err(format!("one of two variables is missing: {both}"));
        }
        // Who says http:// means it.
        let builder = builder.with_allow_http(true).with_bucket_name(bucket);
        let words = Words {
            name: format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_owned(),
            bucket: bucket.to_owned(),
            credentials,
        };
        let store = builder.build().map_err(|e| words.of(&e))?;
        Ok(Self { store: Arc::new(store), words, prefix: prefix.to_owned() })
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }
}

impl Place for Bucket {
    fn name(&self) -> &str {
        &self.words.name
    }

    fn check(&self) -> Written<'_> {
        // It stays: who may write need not be allowed to delete.
        let path = self.path(".probe");
        async move {
            let written = self.store.put_opts(&path, "\n".into(), PutOptions::default()).await;
            written.map(|_| ()).map_err(|e| self.words.of(&e))
        }
        .boxed()
    }

    fn begin<'a>(&'a self, day: &'a str, node: NodeId) -> Written<'a, Box<dyn Sheet>> {
        let chance = crate::clock::chance().to_be_bytes();
        let unique = uuid::Builder::from_random_bytes(chance).into_uuid();
        let object = Object {
            store: Arc::clone(&self.store),
            words: self.words.clone(),
            path: self.path(&format!("{day}/{node}-{unique}.jsonl")),
            held: Vec::new(),
            whole: Some(0),
            upload: None,
        };
        std::future::ready(Ok(Box::new(object) as Box<dyn Sheet>)).boxed()
    }
}

/// An object that is being written.
struct Object {
    store: Arc<dyn ObjectStore>,
    words: Words,
    path: Path,
    /// What is not on its way.
    held: Vec<u8>,
    /// Where in it the last whole line ends; none: a part has more than that.
    whole: Option<usize>,
    /// The parts, if there are any.
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Object {
    async fn send_part(&mut self) -> object_store::Result<()> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => {
                let options =
                    PutMultipartOptions { attributes: attributes(), ..Default::default() };
                none.insert(self.store.put_multipart_opts(&self.path, options).await?)
            }
        };
        // Some stores want parts of one size.
        let rest = self.held.split_off(PART.min(self.held.len()));
        let part = std::mem::replace(&mut self.held, rest);
        self.whole = self.whole.and_then(|whole| whole.checked_sub(part.len()));
        upload.put_part(part.into()).await
    }

    async fn finish(&mut self) -> object_store::Result<()> {
        if self.upload.is_none() {
            if self.held.is_empty() {
                return Ok(());
            }
            let options = PutOptions { attributes: attributes(), ..Default::default() };
            let held = std::mem::take(&mut self.held);
            self.store.put_opts(&self.path, held.into(), options).await?;
            return Ok(());
        }
        if !self.held.is_empty() {
            self.send_part().await?;
        }
        if let Some(upload) = &mut self.upload {
            upload.complete().await?;
        }
        self.upload = None;
        Ok(())
    }

    async fn drop_parts(&mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, object = %self.path, "parts of an upload stay in the bucket");
        }
    }
}

impl Sheet for Object {
    fn write<'a>(&'a mut self, part: &'a [u8]) -> Written<'a> {
        async move {
            self.held.extend_from_slice(part);
            while self.held.len() >= PART {
                self.send_part().await.map_err(|e| self.words.of(&e))?;
            }
            Ok(())
        }
        .boxed()
    }

    fn line_ends(&mut self) {
        self.whole = Some(self.held.len());
    }

    fn take_back(&mut self) -> Written<'_> {
        let taken = match self.whole {
            Some(whole) => {
                self.held.truncate(whole);
                Ok(())
            }
            // Next time it is not asked for.
            None => Err("a run was deleted while it was written; all is written anew".to_owned()),
        };
        std::future::ready(taken).boxed()
    }

    fn close(mut self: Box<Self>) -> Written<'static> {
        async move {
            let finished = self.finish().await.map_err(|e| self.words.of(&e));
            // If the answer to the last request was lost, the object may be there.
            self.drop_parts().await;
            finished
        }
        .boxed()
    }

    fn give_up(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.drop_parts().await }.boxed()
    }
}

fn attributes() -> Attributes {
    [(Attribute::ContentType, CONTENT_TYPE)].into_iter().collect()
}

impl Words {
    fn of(&self, error: &object_store::Error) -> String {
        let text = error.to_string();
        let bucket = &self.bucket;
        let said = between(&text, "<Code>", "</Code>").map(|code| {
            let message = between(&text, "<Message>", "</Message>");
            message.map_or_else(|| code.to_owned(), |message| format!("{code}, {message}"))
        });
        match (error, said) {
            (_, Some(said)) if said.starts_with("NoSuchBucket") => {
                format!("there is no bucket `{bucket}` at this store ({said})")
            }
            (
                object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. },
                said,
            ) => {
                let said = said.unwrap_or_else(|| "403".to_owned());
                format!(
                    "the store refuses these credentials ({said}); they need `s3:PutObject` and \
                     `s3:AbortMultipartUpload` for `{bucket}`"
                )
            }
            (_, Some(said)) => format!("the store answers {said}"),
            (_, None) if !self.credentials => format!(
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                 (nor does this machine's role give any: {text})"
            ),
            (_, None) => text,
        }
    }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(open)?;
    Some(rest.split_once(close)?.0)
}
