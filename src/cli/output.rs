//! The one place that writes to standard output and standard error.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use super::Global;
use super::failure::Failure;
use super::json_text;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One indented JSON document; a list is an array.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// Ids alone, one a line.
    Id,
}

impl Format {
    /// Whether the output is JSON, of either layout.
    #[must_use]
    pub const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal that has not set `NO_COLOR`.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A colour, by what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Warn,
    Faint,
}

/// Data to standard output, the rest to standard error.
pub(super) struct Output {
    format: Format,
    quiet: bool,
    /// Size of the terminal that standard output is, if it is one: columns and rows.
    screen: Option<(u16, u16)>,
    colored: bool,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
}

impl Output {
    /// The process's own streams. Standard output is locked for as long as this lives.
    pub(super) fn of_process(global: &Global) -> Self {
        let stdout = io::stdout();
        let screen = stdout.is_terminal().then(|| {
            let (columns, rows) = terminal_size::terminal_size()
                .map_or((80, 24), |(columns, rows)| (columns.0, rows.0));
            (columns.max(20), rows.max(5))
        });
        let no_color = global.no_color.as_ref().is_some_and(|text| !text.is_empty());
        let colored = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => screen.is_some() && !no_color,
        };
        Self {
            format: global.output,
            quiet: global.quiet,
            screen,
            colored,
            out: Box::new(stdout.lock()),
            err: Box::new(io::stderr()),
        }
    }

    /// Into buffers, as if it were piped.
    #[cfg(test)]
    pub(super) fn into_buffers(
        format: Format,
        out: impl Write + 'static,
        err: impl Write + 'static,
    ) -> Self {
        Self {
            format,
            quiet: false,
            screen: None,
            colored: false,
            out: Box::new(out),
            err: Box::new(err),
        }
    }

    /// How data is to be printed.
    pub(super) const fn format(&self) -> Format {
        self.format
    }

    /// Columns and rows of the terminal, if standard output is one.
    pub(super) const fn screen(&self) -> Option<(u16, u16)> {
        self.screen
    }

    /// The text in a colour, if colours are on.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colored {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Warn => 33,
            Tone::Faint => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Bytes to standard output as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        self.out.flush()?;
        Ok(())
    }

    /// A line to standard output.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// One JSON document in the layout asked for.
    pub(super) fn json(&mut self, json: &str) -> Result<(), Failure> {
        let text = if self.format == Format::Jsonl {
            json_text::compact(json)
        } else {
            json_text::pretty(json)
        };
        self.line(&text)
    }

    /// A table: column heads in capitals, then rows. As wide as it must be when piped; on a terminal
    /// it is fitted to the width, and the first column is never broken.
    pub(super) fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let text = render_table(heads, rows, self.screen.map(|(columns, _)| columns));
        self.line(&text)
    }

    /// Name and value of each field of one thing, a line each.
    pub(super) fn fields(&mut self, fields: &[(&str, String)]) -> Result<(), Failure> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in fields {
            let value = plain(value);
            text.push_str(&format!("{name:width$}  {value}").replace('\n', " "));
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// A remark to standard error, unless `--quiet`.
    pub(super) fn note(&mut self, text: &str) {
        if !self.quiet {
            // Nothing can be said about a standard error that cannot be written.
            let _ = writeln!(self.err, "{}", plain(text));
        }
    }

    /// A failure to standard error.
    pub(super) fn error(&mut self, failure: &Failure) {
        let head = self.paint(Tone::Bad, "error:");
        let _ = writeln!(self.err, "{head} {}", failure.message());
    }
}

/// The text without anything that a terminal would obey: other people's words are shown, never
/// carried out. Line breaks stay.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// The text cut to so many columns, with an ellipsis where something is missing.
pub(super) fn fit(text: &str, columns: usize) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut used = 1; // the ellipsis
    let mut out = String::new();
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

fn render_table(heads: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(heads.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell).replace('\n', " ")));
    }
    match width {
        Some(columns) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec![
                "run_1".to_owned(),
                "waiting".to_owned(),
                "a long text that has no end".to_owned(),
            ],
            vec!["run_22".to_owned(), "completed".to_owned(), "\x1b[2J\nred".to_owned()],
        ]
    }

    #[test]
    fn a_piped_table_is_as_wide_as_its_content() {
        let expected = "ID      STATUS     TEXT\n\
                        run_1   waiting    a long text that has no end\n\
                        run_22  completed  \\u{1b}[2J red";
        assert_eq!(render_table(&["ID", "STATUS", "TEXT"], &rows(), None), expected);
    }

    #[test]
    fn a_table_on_a_terminal_fits_it_and_keeps_ids_whole() {
        let text = render_table(&["ID", "STATUS", "TEXT"], &rows(), Some(34));
        assert!(text.lines().all(|line| line.chars().count() <= 34), "{text}");
        assert!(text.contains("run_22"), "{text}");
        assert!(text.lines().count() > 3, "{text}");
    }

    #[test]
    fn texts_are_cut_by_columns() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdefg", 6), "abcde…");
        assert_eq!(fit("漢字漢字", 5), "漢字…");
    }
}
