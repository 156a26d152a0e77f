//! A fingerprint of everything that happened, in order: two runs with one fingerprint had the same
//! history bit for bit.

use cocoon_protocol::{ids::Digest, units::UnixMillis};

/// A hash chain over events.
#[derive(Debug, Clone)]
pub struct Trace {
    head: Digest,
    events: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            head: Digest::sha256(b"cocoon/simulation-trace/v1"),
            events: 0,
        }
    }
}

impl Trace {
    /// Adds an event: `sha256(head ‖ time ‖ len(kind) ‖ kind ‖ fields)`, numbers in big-endian order.
    pub fn record(&mut self, now: UnixMillis, kind: &str, fields: &[u64]) {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(self.head.as_bytes());
        bytes.extend_from_slice(&now.millis().to_be_bytes());
        let len = u64::try_from(kind.len()).unwrap_or(u64::MAX);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(kind.as_bytes());
        for field in fields {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        self.head = Digest::sha256(&bytes);
        self.events = self.events.saturating_add(1);
    }

    /// The fingerprint so far.
    pub fn hash(&self) -> Digest {
        self.head
    }

    /// How many events it covers.
    pub fn events(&self) -> u64 {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_time_kind_and_fields_all_count() {
        let hash = |events: &[(u64, &str, &[u64])]| {
            let mut trace = Trace::default();
            for (at, kind, fields) in events {
                trace.record(UnixMillis::from_millis(*at), kind, fields);
            }
            trace.hash()
        };
        let base = hash(&[(1, "a", &[1]), (1, "b", &[2])]);
        assert_eq!(base, hash(&[(1, "a", &[1]), (1, "b", &[2])]));
        assert_ne!(base, hash(&[(1, "b", &[2]), (1, "a", &[1])]));
        assert_ne!(base, hash(&[(2, "a", &[1]), (1, "b", &[2])]));
        assert_ne!(base, hash(&[(1, "a", &[2]), (1, "b", &[2])]));
        assert_ne!(base, hash(&[(1, "a", &[1])]));
    }
}
