//! Lists: a page, its cursor and its `Link` header.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;

use super::request::Params;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T: ToSchema> {
    /// In the order of the list.
    data: Vec<T>,
    /// For `?cursor=` of the next page; null on the last.
    next_cursor: Option<String>,
}

impl<T: ToSchema + Serialize> Page<T> {
    /// A page after which the list goes on at `next`.
    pub(super) fn new(data: Vec<T>, next: Option<impl Display>) -> Self {
        Self { data, next_cursor: next.map(|at| URL_SAFE_NO_PAD.encode(at.to_string())) }
    }

    /// A page of what is read by offset.
    pub(super) const fn by_offset(data: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { data, next_cursor }
    }

    /// Where the next page is, for a list call at `uri`.
    pub(super) fn link(&self, uri: &Uri) -> Option<String> {
        self.next_cursor.as_deref().map(|cursor| next_link(uri, "cursor", cursor))
    }

    /// The answer to a list call at `uri`.
    pub(super) fn answer(self, uri: &Uri) -> Response {
        let link = self.link(uri);
        with_link(Json(self).into_response(), link)
    }
}

/// `?cursor=`: where the page before ended.
pub(super) fn cursor<T: FromStr>(params: &mut Params) -> Option<T> {
    params.one("cursor", |text| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let text = bytes.and_then(|b| String::from_utf8(b).ok());
        text.and_then(|t| t.parse().ok())
            .ok_or_else(|| "is not a `next_cursor` of this list".to_owned())
    })
}

/// Which part of a list that is at hand as a whole, in the order of its ids.
pub(super) struct Cut<I> {
    limit: usize,
    after: Option<I>,
}

impl<I: Ord + Display + FromStr> Cut<I> {
    /// As the query asks.
    pub(super) fn of(params: &mut Params) -> Self {
        Self { limit: params.limit(), after: cursor(params) }
    }

    /// That part of the list.
    pub(super) fn page<A, T: ToSchema + Serialize>(
        &self,
        all: Vec<A>,
        id: impl Fn(&A) -> I,
        body: impl Fn(A) -> T,
    ) -> Page<T> {
        let after = |a: &A| self.after.as_ref().is_none_or(|after| id(a) > *after);
        let mut rest: Vec<A> = all.into_iter().filter(after).collect();
        rest.sort_by_key(&id);
        let more = rest.len() > self.limit;
        rest.truncate(self.limit);
        let next = if more { rest.last().map(&id) } else { None };
        Page::new(rest.into_iter().map(body).collect(), next)
    }
}

/// The same call with one parameter replaced, as a `Link` to the next page.
pub(super) fn next_link(uri: &Uri, name: &str, value: &str) -> String {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs.filter(|(n, _)| n != name && n != "cursor"))
        .append_pair(name, value)
        .finish();
    format!("<{}?{query}>; rel=\"next\"", uri.path())
}

/// Adds a `Link` header.
pub(super) fn with_link(mut response: Response, link: Option<String>) -> Response {
    if let Some(link) = link.and_then(|l| HeaderValue::try_from(l).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::Params;

    fn params(uri: &str) -> Params {
        let request = axum::http::Request::builder().uri(uri).body(()).expect("a request");
        Params::of(&request.into_parts().0)
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        let mut uri = "/v1/x?limit=2".to_owned();
        let mut seen = Vec::new();
        loop {
            let mut p = params(&uri);
            let cut = Cut::of(&mut p);
            p.finish().expect("fine");
            let page = cut.page(vec![5u32, 1, 4, 2, 3], |n| *n, |n| n);
            seen.extend(page.data);
            match page.next_cursor {
                Some(cursor) => uri = format!("/v1/x?limit=2&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_link_keeps_the_filters() {
        let uri = "/v1/runs?status=failed&status=paused&cursor=old".parse().expect("a URI");
        assert_eq!(
            next_link(&uri, "cursor", "new"),
            "</v1/runs?status=failed&status=paused&cursor=new>; rel=\"next\""
        );
    }

    #[test]
    fn a_cursor_of_elsewhere_is_a_fault() {
        let mut p = params("/v1/x?cursor=zzz");
        assert_eq!(cursor::<u32>(&mut p), None);
        assert!(p.finish().is_err());
    }
}
