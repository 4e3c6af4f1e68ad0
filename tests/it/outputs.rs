//! Output streams: pieces with offsets, read again from any of them, live and later.

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

fn chunk(stream: &str, data: &Value) -> Value {
    json!({"op": "chunk", "stream": stream, "data": data})
}

/// Says three words, waits, and says two more.
fn talks(it: &Value) -> Value {
    if !settled(it, "go") {
        return json!({"ops": [
            chunk("tokens", &json!("one")), chunk("other", &json!({"n": 1.0})),
            chunk("tokens", &json!("two")), {"op": "log", "message": "a line"},
            chunk("tokens", &json!(["three"])), {"op": "signal", "id": "go", "name": "go"},
        ], "await": "go"});
    }
    json!({"ops": [chunk("tokens", &json!("four")), chunk("tokens", &json!("five"))], "result": 1})
}

async fn talking() -> (Gateway, Handler, String) {
    let g = Gateway::start().await;
    let handler = Handler::serve(talks).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    (g, handler, run)
}

fn data(page: &Value) -> Vec<Value> {
    page["data"].as_array().expect("a list").iter().map(|c| c["data"].clone()).collect()
}

// P5.22
#[tokio::test(flavor = "multi_thread")]
async fn an_output_stream_is_read_by_offset_and_waited_for() {
    let (g, _, run) = talking().await;
    let path = format!("/v1/runs/{run}/outputs/tokens");
    let page = g.get(&path).await;
    assert_eq!(data(&page), [json!("one"), json!("two"), json!(["three"])]);
    assert_eq!(page["next_cursor"], Value::Null);
    let offsets: Vec<i64> =
        page["data"].as_array().expect("a list").iter().filter_map(|c| c["n"].as_i64()).collect();
    assert!(offsets.windows(2).all(|w| w[0] < w[1]), "{offsets:?}");
    let rest = g.get(&format!("{path}?after={}", offsets[0])).await;
    assert_eq!(data(&rest), [json!("two"), json!(["three"])]);
    let first = g.get(&format!("{path}?limit=1")).await;
    assert_eq!(
        (data(&first), &first["next_cursor"]),
        (vec![json!("one")], &json!(offsets[0].to_string()))
    );
    assert_eq!(data(&g.get(&format!("/v1/runs/{run}/outputs/none")).await), [] as [Value; 0]);
    let lines = g.get(&format!("/v1/runs/{run}/logs")).await;
    assert_eq!(lines["data"].as_array().map(Vec::len), Some(1), "a chunk is no line: {lines}");
    let waits = format!("{path}?after={}&wait=20s", offsets[2]);
    let (next, ()) = tokio::join!(g.get(&waits), g.signal(&run, "go", json!(1)));
    assert_eq!(data(&next), [json!("four"), json!("five")]);
    g.status(&run, "completed").await;
    let last = next["data"][1]["n"].as_i64().expect("a number");
    let over = g.get(&format!("{path}?after={last}&wait=20s")).await;
    assert_eq!(data(&over), [] as [Value; 0], "an ended run is not waited for");
    g.close().await;
}

// P5.22
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_an_output_stream_goes_on_after_the_last_chunk_that_was_seen() {
    let (g, _, run) = talking().await;
    let follow = |at: Option<String>| {
        let url = format!("{}/v1/runs/{run}/stream?output=tokens", g.url);
        let mut request = g.http.get(url);
        if let Some(at) = at {
            request = request.header("last-event-id", at);
        }
        request.send()
    };
    let mut seen: Vec<Value> = Vec::new();
    let mut at: Option<String> = None;
    let mut over = false;
    // The first listener goes away after two; the second stays to the end.
    for most in [2, usize::MAX] {
        let mut body = follow(at.clone()).await.expect("an answer").bytes_stream();
        if most == usize::MAX {
            g.signal(&run, "go", json!(1)).await;
        }
        let (mut text, mut id, mut event) = (String::new(), None, String::new());
        'listening: while let Some(part) = body.next().await {
            text.push_str(&String::from_utf8_lossy(&part.expect("bytes")));
            while let Some((line, rest)) = text.split_once('\n') {
                if let Some(it) = line.strip_prefix("id: ") {
                    id = Some(it.to_owned());
                } else if let Some(it) = line.strip_prefix("event: ") {
                    it.clone_into(&mut event);
                } else if let Some(it) = line.strip_prefix("data: ") {
                    let it: Value = serde_json::from_str(it).expect("JSON");
                    over |= event == "end";
                    if event == "chunk" {
                        assert_eq!(it["stream"], "tokens");
                        seen.push(it["data"].clone());
                        at.clone_from(&id);
                    }
                }
                text = rest.to_owned();
                if seen.len() >= most {
                    break 'listening;
                }
            }
        }
    }
    let all = [json!("one"), json!("two"), json!(["three"]), json!("four"), json!("five")];
    assert_eq!(seen, all);
    assert!(over);
    // In the stream of everything they come too, and in the order of the log.
    let whole = g.raw("GET", &format!("/v1/runs/{run}/stream"), &[], None).await.2;
    let whole = String::from_utf8(whole.to_vec()).expect("UTF-8");
    assert_eq!(whole.matches("event: chunk\n").count(), 6);
    assert_eq!(whole.matches("event: log\n").count(), 1);
    g.close().await;
}
