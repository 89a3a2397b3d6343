use std::{
    fmt,
    io::{self, Stdout, Write},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{AuditError, AuditRecord, AuditSink};

/// Writes each record as one line of JSON to any writer: standard output, a file, a pipe.
///
/// A batch is written and flushed at once, on a thread that may block. Flushed is not synced: what the operating system holds
/// when the power goes is lost. No text in a record can end its line, since JSON escapes what could.
pub struct JsonLines<W>(Arc<Mutex<Lines<W>>>);

struct Lines<W> {
    writer: W,
    /// True from the start of a write to its success: the last line may be torn.
    torn: bool,
}

impl JsonLines<Stdout> {
    /// Writes to standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self::to(io::stdout())
    }
}

impl<W: Write + Send + 'static> JsonLines<W> {
    /// Writes to this writer. Opened for appending, if it is a file.
    #[must_use]
    pub fn to(writer: W) -> Self {
        Self(Arc::new(Mutex::new(Lines { writer, torn: false })))
    }
}

#[async_trait]
impl<W: Write + Send + 'static> AuditSink for JsonLines<W> {
    async fn write(self: Arc<Self>, records: Vec<AuditRecord>) -> Result<(), AuditError> {
        let lines = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || lines.lock().unwrap_or_else(PoisonError::into_inner).write(&records))
            .await
            .map_err(AuditError::failed)?
            .map_err(AuditError::failed)
    }
}

impl<W: Write> Lines<W> {
    fn write(&mut self, records: &[AuditRecord]) -> io::Result<()> {
        let mut text = Vec::with_capacity(records.len() * 1_024);
        // What a failed write left behind stays on a line of its own, and spoils no other.
        if self.torn {
            text.push(b'\n');
        }
        for record in records {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        self.torn = true;
        self.writer.write_all(&text)?;
        self.writer.flush()?;
        self.torn = false;
        Ok(())
    }
}

impl<W> fmt::Debug for JsonLines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonLines(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        audit::{Kind, text::clean},
        time::UnixTime,
    };

    /// Takes `room` bytes, fails once, and then takes everything.
    struct Failing {
        room: usize,
        failed: bool,
        taken: Vec<u8>,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.failed && self.taken.len() == self.room {
                self.failed = true;
                return Err(io::Error::other("disk full"));
            }
            let count = if self.failed { bytes.len() } else { bytes.len().min(self.room - self.taken.len()) };
            self.taken.extend(bytes.iter().take(count));
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record() -> AuditRecord {
        AuditRecord::new(Kind::Request, UnixTime::from_secs(0), None)
    }

    #[tokio::test]
    async fn each_record_is_one_line() {
        let sink = Arc::new(JsonLines::to(Vec::new()));
        Arc::clone(&sink).write(vec![record(), record()]).await.unwrap();
        let text = String::from_utf8(sink.0.lock().unwrap().writer.clone()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("}\n"));
    }

    #[tokio::test]
    async fn a_torn_line_spoils_no_other() {
        let sink = Arc::new(JsonLines::to(Failing { room: 10, failed: false, taken: Vec::new() }));
        assert!(Arc::clone(&sink).write(vec![record()]).await.is_err());
        Arc::clone(&sink).write(vec![record()]).await.unwrap();
        let text = String::from_utf8(sink.0.lock().unwrap().writer.taken.clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(serde_json::from_str::<serde_json::Value>(lines[1]).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_can_split_or_forge_a_line(jti in any::<String>(), user in "[\\x00-\\x1f\\x7f-\\xa0\u{2028}\u{2029}\"\\\\{}a-z]{0,300}") {
            let mut lines = Lines { writer: Vec::new(), torn: false };
            let mut forged = record();
            forged.jti = Some(clean(&jti));
            forged.user_id = Some(clean(&user));
            lines.write(&[forged, record()]).unwrap();
            let text = String::from_utf8(lines.writer).unwrap();
            let split: Vec<_> = text
                .split(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'])
                .filter(|line| !line.is_empty())
                .collect();
            prop_assert_eq!(split.len(), 2);
            let first: serde_json::Value = serde_json::from_str(split[0]).unwrap();
            prop_assert_eq!(&first["jti"], &clean(&jti));
            prop_assert_eq!(&first["user_id"], &clean(&user));
        }
    }
}
