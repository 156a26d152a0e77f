//! The firmware's event log: what a guest's RTMR0, RTMR1 and RTMR2 were extended with.
//!
//! A register is one number that says "these digests, in this order". The log lists them, so that a
//! verifier can say which of them it does not like. RTMR0 needs this: it also holds things that
//! differ from machine to machine (ACPI tables, the list of memory), so no release can name its one
//! right value. [`EventPolicy`] judges it event by event.
//!
//! # Format
//! The crypto-agile log of the TCG PC Client Platform Firmware Profile 1.06, section 10.2: one
//! `TCG_PCClientPCREvent` whose data is a `TCG_EfiSpecIdEvent`, then `TCG_PCR_EVENT2`s, all little
//! endian. A guest finds it in the log area of the ACPI table CCEL, on Linux
//! [`CCEL_LOG`]. In it the index of an event is that of a *CC measurement register* (UEFI 2.10,
//! table 38.4.1): 1 is RTMR0, 2 is RTMR1, 3 is RTMR2 and 4 is RTMR3. The area is longer than the
//! log; the rest is filled with `ff`, or zeroes.
//!
//! # What to believe
//! Nothing, until the digests replay to the registers of a verified quote: [`Replay::proven_by`].
//! And then the digests and their order, but neither the types nor the data: whoever hands the log
//! over can relabel an event and keep its digest. Data counts only where the digest is a hash of it
//! ([`Binding`]). So a policy goes by position, which cannot be forged.
//!
//! RTMR3 is extended by the guest itself and not by firmware: see [`crate::launch`].

mod event;
mod parse;
mod policy;

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

pub use self::event::{Binding, Content, Event, EventKind, Guid};
pub use self::policy::{EventPolicy, EventPolicyError, Finding, MAX_DIGESTS, MAX_STEPS, Step};
use crate::Measurement;

/// Longest log that is looked at, without the filling after its end. Real ones have 5 to 20 KB.
pub const MAX_EVENT_LOG_BYTES: usize = 128 * 1024;
/// Most events of a log. Real ones have 20 to 150.
pub const MAX_EVENTS: usize = 1024;
/// Longest data of one event. The longest real one is `dbx`, the list of revoked boot loaders.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// Most hash algorithms that a log may name. One is used here, SHA-384.
pub const MAX_ALGORITHMS: usize = 8;
/// Longest log area that is read from the kernel. QEMU's has 64 KiB, Google's 256 KiB.
pub const MAX_LOG_AREA_BYTES: usize = 1024 * 1024;

/// Where Linux shows the CCEL's log area.
pub const CCEL_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";

/// Why bytes are no event log. Positions are bytes from the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// Longer than any real log.
    #[error("an event log of more than {MAX_EVENT_LOG_BYTES} bytes")]
    TooLarge,
    /// It ends inside something.
    #[error("the event log ends inside {what} at byte {at}")]
    Truncated {
        /// In what.
        what: &'static str,
        /// Where that begins.
        at: usize,
    },
    /// The first event is not the one that describes the log.
    #[error("the event log does not begin with a Spec ID event: {0}")]
    Header(&'static str),
    /// The firmware measured with other algorithms.
    #[error("the event log has no SHA-384 digests, which are what RTMRs are made of")]
    NoSha384,
    /// More algorithms than there are.
    #[error("the event log names {count} hash algorithms, more than {MAX_ALGORITHMS}")]
    TooManyAlgorithms {
        /// How many.
        count: u32,
    },
    /// An event has a digest of an algorithm that the header does not name, or one twice, or none
    /// of SHA-384.
    #[error("the event at byte {at} does not have the digests that the log's header announces")]
    Digests {
        /// Where the event begins.
        at: usize,
    },
    /// An event of an index that no RTMR has.
    #[error("the event at byte {at} is of measurement register {index}; 1 to 4 exist")]
    Register {
        /// Where the event begins.
        at: usize,
        /// The index it names.
        index: u32,
    },
    /// An event's data is longer than real ones.
    #[error("the event at byte {at} has {bytes} bytes of data, more than {MAX_EVENT_BYTES}")]
    EventTooLarge {
        /// Where the event begins.
        at: usize,
        /// How long its data would be.
        bytes: u32,
    },
    /// More events than real logs have.
    #[error("the event log has more than {MAX_EVENTS} events")]
    TooManyEvents,
    /// After the last event there is neither filling nor an event.
    #[error("what follows the last event at byte {at} is neither an event nor filling")]
    Filling {
        /// Where it begins.
        at: usize,
    },
}

/// Why no log could be had from the kernel.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// The file failed. Without it the firmware left no log: is this a TDX guest?
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The area is longer than any known.
    #[error("the firmware's log area has more than {MAX_LOG_AREA_BYTES} bytes")]
    Area,
    /// Its content is no log.
    #[error(transparent)]
    Log(#[from] EventLogError),
}

/// A log, and what the registers would hold had exactly its events been measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// RTMR0 to RTMR3 after the replay.
    pub rtmr: [Measurement; 4],
    /// The measured events in order. Those of type `EV_NO_ACTION` are not measured, so anybody may
    /// have written them, and they are left out.
    pub events: Vec<Event>,
}

/// The log tells of other events than the quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event log replays RTMR{register} to {replayed}, but the quote has {quoted}")]
pub struct NotOfThisQuote {
    /// The first register that differs.
    pub register: u8,
    /// What the log gives.
    pub replayed: Measurement,
    /// What the quote has.
    pub quoted: Measurement,
}

/// A log whose digests and order are those of a verified quote. Types and data are still only what
/// somebody said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenLog(Replay);

/// Parses a log and replays it.
///
/// # Errors
/// [`EventLogError`].
pub fn replay(log: &[u8]) -> Result<Replay, EventLogError> {
    let (events, _) = parse::parse(log)?;
    let mut rtmr = [Measurement::ZERO; 4];
    for event in &events {
        if let Some(register) = rtmr.get_mut(usize::from(event.register)) {
            *register = register.extended(event.digest);
        }
    }
    Ok(Replay { rtmr, events })
}

/// Inside a guest: the log from `area`, [`CCEL_LOG`] on a real one, without the filling.
///
/// # Errors
/// If the file cannot be read or holds no log.
pub fn read_log(area: &Path) -> Result<Vec<u8>, ReadLogError> {
    let failed = |source| ReadLogError::Io {
        path: area.display().to_string(),
        source,
    };
    let most = u64::try_from(MAX_LOG_AREA_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    fs::File::open(area)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() > MAX_LOG_AREA_BYTES {
        return Err(ReadLogError::Area);
    }
    let (_, end) = parse::parse(&bytes)?;
    bytes.truncate(end);
    Ok(bytes)
}

impl Replay {
    /// The log as that of a quote whose RTMR0, RTMR1 and RTMR2 are `quoted`. Only call this with a
    /// quote whose signatures were verified.
    ///
    /// # Errors
    /// The first register that differs.
    pub fn proven_by(self, quoted: &[Measurement; 3]) -> Result<ProvenLog, NotOfThisQuote> {
        for ((register, replayed), quoted) in (0_u8..).zip(self.rtmr).zip(*quoted) {
            if replayed != quoted {
                return Err(NotOfThisQuote {
                    register,
                    replayed,
                    quoted,
                });
            }
        }
        Ok(ProvenLog(self))
    }

    /// The events of one register, in order.
    pub fn of_register(&self, register: u8) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .filter(move |event| event.register == register)
    }
}

impl ProvenLog {
    /// The log.
    #[must_use]
    pub const fn replay(&self) -> &Replay {
        &self.0
    }
}
