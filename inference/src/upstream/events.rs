//! Server-sent events, as far as OpenAI's protocol uses them: each event is one or more `data:` lines and an
//! empty line (WHATWG HTML, 9.2.6). Names, ids and retry times, which it does not use, are passed over.
//!
//! Written here because the parsers that are kept well (`eventsource-stream`, `sse-core`, `sseer`) are built
//! around async streams or byte buffers of their own, and what matters here is not the grammar but the two
//! limits: no line longer than [`MAX_LINE_BYTES`], and no more bytes in all than the request can need.

use std::io::{self, BufRead};

/// Bytes in one line. A token with twenty alternatives takes some 3 000.
pub(super) const MAX_LINE_BYTES: u64 = 256 * 1024;

/// Why there is no next event.
#[derive(Debug)]
pub(super) enum EventError {
    /// A line is longer than [`MAX_LINE_BYTES`], or an event is.
    LongLine,
    /// More bytes came than were allowed in all.
    LongStream { limit: u64 },
    /// A line is not UTF-8.
    NotText,
    /// Reading failed.
    Io(io::Error),
}

/// The events of one stream.
pub(super) struct Events<R> {
    source: R,
    limit: u64,
    left: u64,
}

impl<R: BufRead> Events<R> {
    /// Reads at most `limit` bytes.
    pub(super) fn new(source: R, limit: u64) -> Self {
        Self {
            source,
            limit,
            left: limit,
        }
    }

    /// The data of the next event; `None` at the end of the stream. An event that the end cut off is none.
    pub(super) fn next(&mut self) -> Result<Option<String>, EventError> {
        let mut data: Option<String> = None;
        let mut line = Vec::new();
        loop {
            if !self.line(&mut line)? {
                return Ok(None);
            }
            let text = std::str::from_utf8(&line).map_err(|_| EventError::NotText)?;
            if text.is_empty() {
                if data.is_some() {
                    return Ok(data);
                }
                continue;
            }
            let Some(value) = text.strip_prefix("data:") else {
                continue;
            };
            let value = value.strip_prefix(' ').unwrap_or(value);
            let event = data.get_or_insert_default();
            if !event.is_empty() {
                event.push('\n');
            }
            event.push_str(value);
            if event.len() as u64 > MAX_LINE_BYTES {
                return Err(EventError::LongLine);
            }
        }
    }

    /// The next line without its end; `false` at the end of the stream.
    fn line(&mut self, line: &mut Vec<u8>) -> Result<bool, EventError> {
        line.clear();
        let allowed = self.left.min(MAX_LINE_BYTES);
        // `Take` bounds what a server without line ends can make us hold.
        let mut source = io::Read::take(&mut self.source, allowed);
        let read = source.read_until(b'\n', line).map_err(EventError::Io)? as u64;
        self.left = self.left.saturating_sub(read);
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            return match read {
                0 if allowed > 0 => Ok(false),
                _ if self.left == 0 => Err(EventError::LongStream { limit: self.limit }),
                _ if read >= MAX_LINE_BYTES => Err(EventError::LongLine),
                // The stream ended inside a line.
                _ => Ok(false),
            };
        }
        line.pop_if(|byte| *byte == b'\r');
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8], limit: u64) -> Result<Vec<String>, EventError> {
        let mut events = Events::new(text, limit);
        let mut found = vec![];
        while let Some(event) = events.next()? {
            found.push(event);
        }
        Ok(found)
    }

    #[test]
    fn data_comes_event_by_event_and_the_rest_is_passed_over() {
        let text = b": ping\n\ndata: {\"a\":1}\n\nevent: x\nid: 7\ndata:two\r\ndata: lines\r\n\r\ndata: [DONE]\n\n";
        assert_eq!(
            all(text, 1000).unwrap(),
            ["{\"a\":1}", "two\nlines", "[DONE]"]
        );
    }

    #[test]
    fn an_event_that_the_end_cut_off_is_none() {
        assert_eq!(all(b"data: one\n\ndata: tw", 1000).unwrap(), ["one"]);
        assert_eq!(all(b"data: one\n\ndata: two\n", 1000).unwrap(), ["one"]);
        assert_eq!(all(b"", 1000).unwrap(), [""; 0]);
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_the_limit() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let mut events = Events::new(endless, u64::MAX);
        assert!(matches!(events.next(), Err(EventError::LongLine)));
        // Many short lines of one event are no way round it.
        let lines = "data: xxxxxxxxxxxxxxxx\n".repeat(20_000);
        assert!(matches!(
            all(lines.as_bytes(), u64::MAX),
            Err(EventError::LongLine)
        ));
    }

    #[test]
    fn a_stream_without_an_end_is_refused_at_the_limit() {
        let pings = ": ping\n\n".repeat(1000);
        assert!(matches!(
            all(pings.as_bytes(), 4000),
            Err(EventError::LongStream { limit: 4000 })
        ));
        assert!(
            all(pings.as_bytes(), 8000).is_err(),
            "the limit itself is not the end"
        );
        assert_eq!(all(pings.as_bytes(), 8001).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_not_text_is_refused() {
        assert!(matches!(
            all(b"data: \xff\n\n", 100),
            Err(EventError::NotText)
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = all(&bytes, 300);
        }

        #[test]
        fn what_was_written_is_read(events in proptest::collection::vec("[a-z🦋{}:\" ]{1,20}", 0..8)) {
            let text: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
            prop_assert_eq!(all(text.as_bytes(), 10_000).unwrap(), events);
        }
    }
}
