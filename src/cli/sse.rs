//! Reads server-sent events out of the chunks of a response.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    /// Its type; `message` where none is given.
    pub(super) name: String,
    /// Its data, lines joined.
    pub(super) data: String,
}

/// The events of a stream so far. Comments (pings) are no events.
#[derive(Debug, Default)]
pub(super) struct Events {
    bytes: Vec<u8>,
    name: String,
    data: Option<String>,
    /// The id to go on after: what `Last-Event-ID` is to say.
    pub(super) last_id: Option<String>,
}

impl Events {
    /// A new stream that goes on after an event.
    pub(super) fn after(last_id: Option<String>) -> Self {
        Self { last_id, ..Self::default() }
    }

    /// Takes a chunk in, gives the events that it completes.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Vec<Event> {
        self.bytes.extend_from_slice(chunk);
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(length) = self.bytes[from..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&self.bytes[from..from + length]).into_owned();
            from += length + 1;
            found.extend(self.line(line.trim_end_matches('\r')));
        }
        self.bytes.drain(..from);
        found
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = self.data.take()?;
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return Some(Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.last_id = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_however_the_stream_is_cut() {
        let stream = ": ping\n\nid: 7\nevent: step\ndata: {\"a\":\ndata: \"ü\"}\n\n\
                      data:x\r\n\r\nevent: lost\n\ndata: unfinished\n";
        let expected = [
            Event { name: "step".to_owned(), data: "{\"a\":\n\"ü\"}".to_owned() },
            Event { name: "message".to_owned(), data: "x".to_owned() },
        ];
        for size in [1, 2, 3, 7, stream.len()] {
            let mut events = Events::default();
            let found: Vec<_> =
                stream.as_bytes().chunks(size).flat_map(|chunk| events.feed(chunk)).collect();
            assert_eq!(found, expected, "in chunks of {size}");
            assert_eq!(events.last_id.as_deref(), Some("7"));
        }
    }
}
