//! Pages for people and for language models: the dashboard, the reference, a page for each problem.

use std::fmt::Write as _;

use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};

use super::ApiState;
use super::catalogue::Code;
use super::problem::Problem;
use super::request::At;

/// Nothing from elsewhere, nothing inline.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                   connect-src 'self'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'";

/// Files of the pages that are no part of the dashboard.
const ASSETS: [(&str, &str, &str); 5] = [
    ("plain.js", SCRIPT, include_str!("../../web/pages/plain.js")),
    ("dom.js", SCRIPT, include_str!("../../web/pages/dom.js")),
    ("docs.js", SCRIPT, include_str!("../../web/pages/docs.js")),
    ("style.css", STYLE, include_str!("../../web/pages/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("../../web/pages/icon.svg")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The dashboard as `make web` left it; empty where it was not built. Debug builds read it from disk.
#[derive(rust_embed::RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Built;

/// The addresses of the dashboard's views, beside `/`: each is answered with the same page.
pub(super) const VIEWS: [&str; 20] = [
    "/runs",
    "/runs/{id}",
    "/waiting",
    "/errors",
    "/errors/{fingerprint}",
    "/events",
    "/events/{id}",
    "/functions",
    "/functions/{name}",
    "/endpoints",
    "/endpoints/{name}",
    "/objects/{function}/{key}",
    "/limits",
    "/bulk",
    "/bulk/{id}",
    "/charts",
    "/schedules",
    "/schedules/{name}",
    "/settings",
    "/settings/{part}",
];

fn html(page: impl Into<axum::body::Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, page.into()).into_response()
}

fn plain(kind: &'static str, text: impl Into<axum::body::Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    (headers, text.into()).into_response()
}

/// The dashboard: runs, live, and what can be done about them.
#[utoipa::path(
    get, path = "/", tag = "pages",
    responses((status = 200, description = "A page", body = String, content_type = "text/html")),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn dashboard(OriginalUri(uri): OriginalUri) -> Response {
    let built = Built::get("index.html");
    let page = built.as_ref().and_then(|page| std::str::from_utf8(&page.data).ok());
    let page = page.unwrap_or(include_str!("../../web/pages/plain.html"));
    html(page.replace("<base href=\"/\">", &format!("<base href=\"{}\">", root(uri.path()))))
}

/// The way from a page to the root, so that pages work below any path that a proxy takes away.
fn root(path: &str) -> String {
    match path.matches('/').count() {
        0 | 1 => "./".to_owned(),
        depth => "../".repeat(depth - 1),
    }
}

/// The reference of this API, for people.
#[utoipa::path(
    get, path = "/docs", tag = "pages",
    responses((status = 200, description = "A page", body = String, content_type = "text/html")),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn docs() -> Response {
    html(include_str!("../../web/pages/docs.html"))
}

/// A file that a page loads.
#[utoipa::path(
    get, path = "/assets/{file}", tag = "pages",
    params(("file" = String, Path, description = "Its name")),
    responses((status = 200, description = "The file", content(
        (String = "text/javascript"), (String = "text/css"), (String = "image/svg+xml")))),
    security(()),
    extensions(("x-problems" = json!(["not-found"])))
)]
pub(super) async fn asset(At(file): At<String>) -> Result<Response, Problem> {
    let mut response = match ASSETS.iter().find(|(name, ..)| *name == file) {
        Some((_, kind, text)) => plain(kind, *text),
        None => built(&file)?,
    };
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    Ok(response)
}

/// A file of the dashboard. Its name changes with its content, so it may be kept for ever.
fn built(file: &str) -> Result<Response, Problem> {
    let nothing = || Problem::new(Code::NotFound, "There is no such file.");
    let plain_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !file.chars().all(plain_name) {
        return Err(nothing());
    }
    let found = Built::get(&format!("assets/{file}")).ok_or_else(nothing)?;
    let kind = match file.rsplit('.').next() {
        Some("js") => SCRIPT,
        Some("css") => STYLE,
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, found.data.into_owned()).into_response())
}

/// The description of this API, as JSON.
#[utoipa::path(
    get, path = "/openapi.json", tag = "pages",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn openapi_json(State(state): State<ApiState>) -> Response {
    plain("application/json", state.reference.json.clone())
}

/// The description of this API, as YAML.
#[utoipa::path(
    get, path = "/openapi.yaml", tag = "pages",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value, content_type = "application/yaml")),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn openapi_yaml(State(state): State<ApiState>) -> Response {
    plain("application/yaml", state.reference.yaml.clone())
}

/// What this is and where to read on, for language models.
#[utoipa::path(
    get, path = "/llms.txt", tag = "pages",
    responses((status = 200, description = "Markdown", body = String, content_type = "text/plain")),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn llms() -> Response {
    plain("text/plain; charset=utf-8", include_str!("../../web/pages/llms.txt"))
}

/// The public keys of this installation: what verifies the `v1a` signatures of calls to handlers.
///
/// Calls have such signatures where the server is set so (`--sign-publicly`).
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "pages",
    responses((status = 200, description = "A JSON Web Key Set", body = serde_json::Value)),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn key_set(State(state): State<ApiState>) -> Response {
    let set = serde_json::to_string(&state.engine.key_set()).unwrap_or_default();
    plain("application/json", set)
}

/// Every problem that this API answers with.
#[utoipa::path(
    get, path = "/problems", tag = "pages",
    responses((status = 200, description = "A page", body = String, content_type = "text/html")),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn problems() -> Response {
    let mut rows = String::new();
    for code in Code::ALL {
        let (slug, title) = (code.slug(), code.title());
        let (status, retry) = (code.status().as_u16(), code.retry().word());
        write!(
            rows,
            "<tr><td><a href=\"problems/{slug}\">{slug}</a><td>{status}<td>{retry}<td>{title}"
        )
        .expect("a String takes what is written");
    }
    let table = "<table><thead><tr><th>code<th>status<th>retry<th>title<tbody>";
    html(page("./", "Problems", &format!("<h1>Problems</h1>{table}{rows}</table>")))
}

/// What a kind of problem means, and what to do.
#[utoipa::path(
    get, path = "/problems/{code}", tag = "pages",
    params(("code" = String, Path, description = "Its `code`", example = "run-not-found")),
    responses((status = 200, description = "A page", body = String, content_type = "text/html")),
    security(()),
    extensions(("x-problems" = json!(["not-found"])))
)]
pub(super) async fn problem(At(code): At<String>) -> Result<Response, Problem> {
    let Some(code) = Code::from_slug(&code) else {
        return Err(Problem::new(Code::NotFound, "There is no problem of this code."));
    };
    let text = code.page().split_once("\n\n").map_or("", |(_, rest)| rest);
    let body = format!(
        "<p><a href=\"../problems\">Problems</a></p><h1>{}</h1>\
         <p><code>{}</code>, status {}, retry: {}</p>{}",
        code.title(),
        code.slug(),
        code.status().as_u16(),
        code.retry().word(),
        markdown(text)
    );
    Ok(html(page("../", code.title(), &body)))
}

/// Where browsers look for an icon.
#[utoipa::path(
    get, path = "/favicon.ico", tag = "pages",
    responses((status = 308, description = "It is elsewhere")),
    security(()),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn favicon() -> Redirect {
    Redirect::permanent("assets/icon.svg")
}

/// A page of text; `root` is the way from it to the root.
fn page(root: &str, title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · Stepwell</title><link rel=\"icon\" href=\"{root}assets/icon.svg\">\
         <link rel=\"stylesheet\" href=\"{root}assets/style.css\">\
         <body class=\"text\"><header><strong>Stepwell</strong><nav aria-label=\"Pages\">\
         <a href=\"{root}\">Dashboard</a> <a href=\"{root}docs\">API</a> \
         <a href=\"{root}problems\" aria-current=\"page\">Problems</a></nav></header>\
         <main>{body}</main></body></html>"
    )
}

/// The little Markdown that our own pages use: headings of the second level, paragraphs, `code`.
fn markdown(text: &str) -> String {
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        let (tag, block) = match block.strip_prefix("## ") {
            Some(heading) => ("h2", heading),
            None => ("p", block),
        };
        write!(out, "<{tag}>").expect("a String takes what is written");
        for (i, part) in block.split('`').enumerate() {
            let part = part.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let code = i % 2 == 1;
            out.push_str(if code { "<code>" } else { "" });
            out.push_str(&part);
            out.push_str(if code { "</code>" } else { "" });
        }
        write!(out, "</{tag}>").expect("a String takes what is written");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_safe_html() {
        assert_eq!(
            markdown("A `x < y` & b.\n\n## What to do\n\nGo on."),
            "<p>A <code>x &lt; y</code> &amp; b.</p><h2>What to do</h2><p>Go on.</p>"
        );
    }

    #[test]
    fn a_page_finds_its_root_below_any_path() {
        assert_eq!(root("/"), "./");
        assert_eq!(root("/runs"), "./");
        assert_eq!(root("/runs/run_1"), "../");
        assert_eq!(root("/a/b/c"), "../../");
    }

    #[test]
    fn pages_hold_nothing_that_their_policy_forbids() {
        let pages = [
            ("index.html", include_str!("../../web/index.html")),
            ("plain.html", include_str!("../../web/pages/plain.html")),
            ("docs.html", include_str!("../../web/pages/docs.html")),
        ];
        for (name, text) in pages {
            for bad in ["<style", " style=", " onclick=", "javascript:", "http://", "https://"] {
                assert!(!text.contains(bad), "{name} has {bad}");
            }
            for part in text.split("<script").skip(1) {
                assert!(part.starts_with(" type=\"module\" src=\""), "{name}: {part}");
            }
        }
        for (name, _, text) in ASSETS.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            for bad in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(bad), "{name} has {bad}");
            }
        }
    }

    #[test]
    fn only_plain_names_are_looked_for() {
        for file in ["../index.html", "..%2findex.html", "nothing.js", "", "a/b", "..\\x"] {
            assert!(built(file).is_err(), "{file}");
        }
    }
}
