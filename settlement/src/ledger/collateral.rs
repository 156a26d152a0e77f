//! Intel's collateral, kept beside the books so that a restarted node does not ask for it again and does not
//! forget how new it was. Column `collateral`, key: FMSPC (6 bytes) ‖ authority (1 byte).

use cocoon_protocol::collateral::{PckAuthority, PlatformFamily};

use super::COLLATERAL;
use crate::store::{Column, Reader, Record, RecordError, Writer};

/// Collateral of one family of platforms whose signatures were checked before it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCollateral {
    /// Whose.
    pub family: PlatformFamily,
    /// No collateral of a lower evaluation number counts any more.
    pub floor: u32,
    /// The collateral, JSON, at most 64 KiB.
    pub json: Vec<u8>,
}

impl Record for KeptCollateral {
    const COLUMN: Column = COLLATERAL;
    const VERSION: u8 = 1;

    fn key(&self) -> Vec<u8> {
        let authority = match self.family.authority {
            PckAuthority::Platform => 1,
            PckAuthority::Processor => 2,
        };
        [&self.family.fmspc[..], &[authority]].concat()
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.floor);
        out.bytes(&self.json);
    }

    fn read(_version: u8, key: &[u8], fields: &mut Reader<'_>) -> Result<Self, RecordError> {
        let bad = RecordError::BadValue("a family of platforms");
        let (fmspc, authority) = key.split_first_chunk::<6>().ok_or(bad)?;
        let authority = match authority {
            [1] => PckAuthority::Platform,
            [2] => PckAuthority::Processor,
            _ => return Err(bad),
        };
        Ok(Self {
            family: PlatformFamily {
                fmspc: *fmspc,
                authority,
            },
            floor: fields.u32()?,
            json: fields.bytes()?.to_vec(),
        })
    }
}
