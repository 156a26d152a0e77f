//! Event logs written by the specification: what a firmware does.

use cocoon_attestation::Measurement;
use cocoon_attestation::event_log::{Event, EventKind, Guid};

pub(crate) const SHA384: (u16, u16) = (0x0c, 48);
pub(crate) const SHA256: (u16, u16) = (0x0b, 32);

/// The first event, as edk2 writes it.
pub(crate) fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (id, length) in algorithms {
        data.extend(id.to_le_bytes());
        data.extend(length.to_le_bytes());
    }
    data.push(0);
    let mut event = [1_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    event.extend([0; 20]);
    event.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    event.extend(data);
    event
}

pub(crate) fn raw(index: u32, kind: EventKind, digests: &[(u16, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut event = [index.to_le_bytes(), kind.0.to_le_bytes()].concat();
    event.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
    for (id, digest) in digests {
        event.extend(id.to_le_bytes());
        event.extend(digest);
    }
    event.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    event.extend(data);
    event
}

pub(crate) fn written(events: &[Event]) -> Vec<u8> {
    let mut log = header(&[SHA384]);
    for event in events {
        log.extend(raw(
            u32::from(event.register) + 1,
            event.kind,
            &[(SHA384.0, event.digest.as_bytes().to_vec())],
            &event.data,
        ));
    }
    log
}

pub(crate) fn event(register: u8, kind: EventKind, digest: Measurement, data: &[u8]) -> Event {
    Event {
        register,
        kind,
        digest,
        data: data.to_vec(),
    }
}

/// One whose digest is of its data.
pub(crate) fn honest(register: u8, kind: EventKind, data: &[u8]) -> Event {
    event(register, kind, Measurement::of(data), data)
}

pub(crate) fn variable(vendor: Guid, name: &str, value: &[u8]) -> Vec<u8> {
    let mut data = vendor.0.to_vec();
    data.extend(u64::try_from(name.len()).unwrap().to_le_bytes());
    data.extend(u64::try_from(value.len()).unwrap().to_le_bytes());
    data.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    data.extend(value);
    data
}

pub(crate) fn named(prefix: &[u8], name: &str) -> Vec<u8> {
    let mut data = prefix.to_vec();
    data.push(u8::try_from(name.len()).unwrap());
    data.extend(name.as_bytes());
    data.extend([0; 16]);
    data
}

/// What OVMF measures when QEMU hands it a kernel, in its order. The kernel's and the tables' digests
/// are made up, all others are what real machines have.
pub(crate) fn like_ovmf(secure_boot: &[u8]) -> Vec<Event> {
    let mut boot0000 = vec![9, 1, 0, 0];
    boot0000.extend("UiApp".encode_utf16().flat_map(u16::to_le_bytes));
    let config = EventKind::VARIABLE_DRIVER_CONFIG;
    let global = Guid::GLOBAL_VARIABLE;
    let security = Guid::IMAGE_SECURITY;
    let tables = |what: &[u8]| {
        event(
            0,
            EventKind::PLATFORM_CONFIG_FLAGS,
            Measurement::of(what),
            b"ACPI DATA",
        )
    };
    let boot_value = |name: &str, value: &[u8]| {
        event(
            0,
            EventKind::VARIABLE_BOOT,
            Measurement::of(value),
            &variable(global, name, value),
        )
    };
    let mut image = [0x3cd9_4018_u64, 5_252_096, 0, 24]
        .map(u64::to_le_bytes)
        .concat();
    image.extend([4, 4, 20, 0]);
    image.extend("kernel\0\0".encode_utf16().flat_map(u16::to_le_bytes));
    image.extend([0x7f, 0xff, 4, 0]);
    let node_end = image.len() - 32;
    image[24..32].copy_from_slice(&u64::try_from(node_end).unwrap().to_le_bytes());
    vec![
        event(
            0,
            EventKind::HANDOFF_TABLES2,
            Measurement::of(b"memory"),
            &named(&[], "TdxTable"),
        ),
        event(
            0,
            EventKind::FIRMWARE_BLOB2,
            Measurement::of(b"volume"),
            &named(&[], "Fv(XXXXXXXX)"),
        ),
        honest(0, config, &variable(global, "SecureBoot", secure_boot)),
        honest(0, config, &variable(global, "PK", b"")),
        honest(0, config, &variable(global, "KEK", b"")),
        honest(0, config, &variable(security, "db", b"")),
        honest(0, config, &variable(security, "dbx", b"")),
        honest(0, EventKind::SEPARATOR, &[0; 4]),
        tables(b"loader"),
        tables(b"rsdp"),
        tables(b"tables"),
        event(
            1,
            EventKind::BOOT_SERVICES_APPLICATION,
            Measurement::of(b"kernel"),
            &image,
        ),
        boot_value("BootOrder", &[0, 0]),
        boot_value("Boot0000", &boot0000),
        honest(
            1,
            EventKind::ACTION,
            b"Calling EFI Application from Boot Option",
        ),
        honest(1, EventKind::SEPARATOR, &[0; 4]),
        event(
            2,
            EventKind::EVENT_TAG,
            Measurement::of(b"initrd"),
            &[
                0x8f3b_22ec_u32.to_le_bytes().as_slice(),
                &13_u32.to_le_bytes(),
                b"Linux initrd\0",
            ]
            .concat(),
        ),
        honest(1, EventKind::ACTION, b"Exit Boot Services Invocation"),
    ]
}
