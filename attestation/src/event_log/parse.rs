//! Bytes to events. Every length is checked against what is left before anything is made of it.

use super::event::{Event, EventKind};
use super::{EventLogError, MAX_ALGORITHMS, MAX_EVENT_BYTES, MAX_EVENT_LOG_BYTES, MAX_EVENTS};
use crate::Measurement;

/// `TPM_ALG_SHA384` of the TCG Algorithm Registry.
const SHA384: u16 = 0x000c;
const SHA384_BYTES: u16 = 48;
/// Of a `TCG_EfiSpecIdEvent`.
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// Digest of the first event, which has the format of SHA-1 logs.
const SHA1_BYTES: usize = 20;

/// What is left of a log.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        self.at = self.at.saturating_add(bytes);
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether only filling is left: nothing, `ff` to the end, or zeroes to the end.
    fn at_filling(&self) -> bool {
        [0xff, 0]
            .iter()
            .any(|filling| self.rest.iter().all(|byte| byte == filling))
    }
}

/// A hash algorithm's number and the length of its digests, bytes.
type Algorithm = (u16, u16);

/// The measured events, and where the log ends.
pub(super) fn parse(log: &[u8]) -> Result<(Vec<Event>, usize), EventLogError> {
    let mut cursor = Cursor::new(log);
    let algorithms = header(&mut cursor)?;
    let mut events = Vec::new();
    let mut count = 0_usize;
    loop {
        // The filling begins with an index that no event has, so this is looked at once and not
        // for each event.
        let next = cursor.rest().first_chunk().copied().map(u32::from_le_bytes);
        if matches!(next, None | Some(0 | u32::MAX)) && cursor.at_filling() {
            break;
        }
        if next == Some(u32::MAX) {
            return Err(EventLogError::Filling { at: cursor.at });
        }
        count = count.saturating_add(1);
        if count > MAX_EVENTS {
            return Err(EventLogError::TooManyEvents);
        }
        events.extend(event(&mut cursor, &algorithms)?);
        if cursor.at > MAX_EVENT_LOG_BYTES {
            return Err(EventLogError::TooLarge);
        }
    }
    Ok((events, cursor.at))
}

fn header(cursor: &mut Cursor<'_>) -> Result<Vec<Algorithm>, EventLogError> {
    let short = EventLogError::Truncated {
        what: "its first event",
        at: 0,
    };
    let (index, kind, digest, data) = first(cursor).ok_or_else(|| short.clone())?;
    // The index says nothing, since the event is not measured: edk2 writes 1, others 0.
    if index > 4 || kind != EventKind::NO_ACTION.0 || digest.iter().any(|byte| *byte != 0) {
        return Err(EventLogError::Header("its first event is another one"));
    }
    let mut inner = Cursor::new(data);
    if inner.take(SIGNATURE.len()) != Some(SIGNATURE) {
        return Err(EventLogError::Header("another signature"));
    }
    // Platform class, minor and major version, errata, size of a native integer.
    inner.take(8).ok_or_else(|| short.clone())?;
    let count = inner.u32().ok_or_else(|| short.clone())?;
    let within = usize::try_from(count).is_ok_and(|count| count <= MAX_ALGORITHMS);
    if !within {
        return Err(EventLogError::TooManyAlgorithms { count });
    }
    let mut algorithms = Vec::new();
    for _ in 0..count {
        let algorithm = inner.u16().zip(inner.u16()).ok_or_else(|| short.clone())?;
        if algorithms.iter().any(|(id, _)| *id == algorithm.0) {
            return Err(EventLogError::Header("an algorithm is named twice"));
        }
        algorithms.push(algorithm);
    }
    let vendor = inner.u8().ok_or_else(|| short.clone())?;
    inner.take(usize::from(vendor)).ok_or(short)?;
    if !inner.rest().is_empty() {
        return Err(EventLogError::Header("bytes after its end"));
    }
    if !algorithms.contains(&(SHA384, SHA384_BYTES)) {
        return Err(EventLogError::NoSha384);
    }
    Ok(algorithms)
}

/// Index, type, digest and data of the first event, a `TCG_PCClientPCREvent`.
fn first<'a>(cursor: &mut Cursor<'a>) -> Option<(u32, u32, &'a [u8], &'a [u8])> {
    let index = cursor.u32()?;
    let kind = cursor.u32()?;
    let digest = cursor.take(SHA1_BYTES)?;
    let bytes = cursor.u32()?;
    let data = cursor.take(usize::try_from(bytes).ok()?)?;
    Some((index, kind, digest, data))
}

/// One event, `None` if it is not a measured one.
fn event(
    cursor: &mut Cursor<'_>,
    algorithms: &[Algorithm],
) -> Result<Option<Event>, EventLogError> {
    let at = cursor.at;
    let short = || EventLogError::Truncated {
        what: "an event",
        at,
    };
    let index = cursor.u32().ok_or_else(short)?;
    let kind = EventKind(cursor.u32().ok_or_else(short)?);
    let count = cursor.u32().ok_or_else(short)?;
    if usize::try_from(count).is_ok_and(|count| count != algorithms.len()) {
        return Err(EventLogError::Digests { at });
    }
    let mut seen = Vec::new();
    let mut digest = None;
    for _ in 0..count {
        let id = cursor.u16().ok_or_else(short)?;
        let known = algorithms.iter().find(|(known, _)| *known == id);
        let Some((_, length)) = known.filter(|_| !seen.contains(&id)) else {
            return Err(EventLogError::Digests { at });
        };
        seen.push(id);
        let bytes = cursor.take(usize::from(*length)).ok_or_else(short)?;
        if id == SHA384 {
            digest = bytes.try_into().ok().map(Measurement::from_bytes);
        }
    }
    let digest = digest.ok_or(EventLogError::Digests { at })?;
    let bytes = cursor.u32().ok_or_else(short)?;
    let length = usize::try_from(bytes)
        .ok()
        .filter(|length| *length <= MAX_EVENT_BYTES)
        .ok_or(EventLogError::EventTooLarge { at, bytes })?;
    let data = cursor.take(length).ok_or_else(short)?;
    if kind == EventKind::NO_ACTION {
        return Ok(None);
    }
    let register = index
        .checked_sub(1)
        .and_then(|register| u8::try_from(register).ok())
        .filter(|register| *register < 4)
        .ok_or(EventLogError::Register { at, index })?;
    Ok(Some(Event {
        register,
        kind,
        digest,
        data: data.to_vec(),
    }))
}
