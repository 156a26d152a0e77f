//! Registers from files. The firmware and the kernel here are made up byte by byte; what they are
//! compared with was computed by others' programs, as each test says.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use cocoon_attestation::Measurement;
use cocoon_attestation::launch_measure::kernel::{authenticode, authenticode_parts};
use cocoon_attestation::launch_measure::{
    Firmware, Handover, KernelError, LaunchFiles, LaunchMeasureError, PageOrder, TdvfError, expect,
};
use proptest::prelude::*;
use sha2::{Digest as _, Sha384};

const MIB: u64 = 1024 * 1024;

#[derive(Clone, Copy)]
struct Section {
    offset: u32,
    length: u32,
    address: u64,
    size: u64,
    kind: u32,
    attributes: u32,
}

/// Code that is measured, a volume that is not, memory that is empty: OVMF's shape in small.
const SECTIONS: [Section; 4] = [
    Section {
        offset: 0x1000,
        length: 0x2000,
        address: 0xffff_d000,
        size: 0x2000,
        kind: 0,
        attributes: 1,
    },
    Section {
        offset: 0,
        length: 0x1000,
        address: 0xffff_c000,
        size: 0x1000,
        kind: 1,
        attributes: 0,
    },
    Section {
        offset: 0,
        length: 0,
        address: 0x80_9000,
        size: 0x2000,
        kind: 2,
        attributes: 0,
    },
    Section {
        offset: 0,
        length: 0,
        address: 0x90_0000,
        size: 0x1000,
        kind: 4,
        attributes: 2,
    },
];

/// 12 KiB of counted bytes; metadata and table at the end, as OVMF has them.
fn firmware(sections: &[Section]) -> Vec<u8> {
    // A GUID stands before the descriptor; some programs ask for it.
    let guid = [
        0xf3, 0xf9, 0xea, 0xe9, 0x8e, 0x16, 0xd5, 0x44, 0xa8, 0xeb, 0x7f, 0x4d, 0x87, 0x38, 0xf6,
        0xae,
    ];
    let mut metadata = b"TDVF".to_vec();
    let length = u32::try_from(16 + 32 * sections.len()).unwrap();
    for word in [length, 1, u32::try_from(sections.len()).unwrap()] {
        metadata.extend(word.to_le_bytes());
    }
    for section in sections {
        metadata.extend(section.offset.to_le_bytes());
        metadata.extend(section.length.to_le_bytes());
        metadata.extend(section.address.to_le_bytes());
        metadata.extend(section.size.to_le_bytes());
        metadata.extend(section.kind.to_le_bytes());
        metadata.extend(section.attributes.to_le_bytes());
    }
    // Another entry, so that the table has to be walked.
    let mut tail = [7_u8; 6].to_vec();
    tail.extend(24_u16.to_le_bytes());
    tail.extend([0x11; 16]);
    let from_end = u32::try_from(metadata.len() + tail.len() + 22 + 18 + 32).unwrap();
    let mut table = from_end.to_le_bytes().to_vec();
    table.extend(22_u16.to_le_bytes());
    table.extend([
        0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e,
        0xc2,
    ]);
    table.extend(tail);
    let whole = u16::try_from(table.len() + 18).unwrap();
    table.extend(whole.to_le_bytes());
    table.extend([
        0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08,
        0x2d,
    ]);
    let end = [guid.to_vec(), metadata, table, vec![0x90; 32]].concat();
    let mut file = (0..0x3000 - end.len())
        .map(|at| u8::try_from(at * 31 % 251).unwrap())
        .collect::<Vec<_>>();
    file.extend(end);
    file
}

/// The hash written out once more, straight from the specification's words.
fn mrtd_by_the_book(file: &[u8], sections: &[Section], order: PageOrder) -> Measurement {
    let mut hash = Sha384::new();
    let operation = |name: &str, address: u64| {
        let mut block = name.as_bytes().to_vec();
        block.resize(16, 0);
        block.extend(address.to_le_bytes());
        block.resize(128, 0);
        block
    };
    for section in sections {
        let (offset, length) = (section.offset as usize, section.length as usize);
        let mut memory = file[offset..offset + length].to_vec();
        memory.resize(usize::try_from(section.size).unwrap(), 0);
        let mut added = Vec::new();
        let mut measured = Vec::new();
        for (page, content) in memory.chunks(4096).enumerate() {
            let address = section.address + 4096 * page as u64;
            let mut one = Vec::new();
            if section.attributes & 2 == 0 {
                one = operation("MEM.PAGE.ADD", address);
            }
            let mut other = Vec::new();
            if section.attributes & 1 == 1 {
                for (chunk, bytes) in content.chunks(256).enumerate() {
                    other.extend(operation("MR.EXTEND", address + 256 * chunk as u64));
                    other.extend(bytes);
                }
            }
            match order {
                PageOrder::EachPage => added.extend([one, other].concat()),
                PageOrder::EachSection => {
                    added.extend(one);
                    measured.extend(other);
                }
            }
        }
        hash.update([added, measured].concat());
    }
    Measurement::from_bytes(hash.finalize().into())
}

/// A bzImage that is a PE file: 4 KiB, the header of boot protocol 2.15, two sections in the wrong
/// order, bytes after them, and room for certificates.
fn kernel() -> Vec<u8> {
    let mut file = (0..0x1000)
        .map(|at: usize| u8::try_from(at * 7 % 253).unwrap())
        .collect::<Vec<_>>();
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &0x8664_u16.to_le_bytes());
    put(0x46, &2_u16.to_le_bytes());
    put(0x48, &[0; 12]);
    put(0x54, &160_u16.to_le_bytes());
    put(0x56, &0x0206_u16.to_le_bytes());
    // Optional header at 0x58.
    put(0x58, &0x20b_u16.to_le_bytes());
    put(0x58 + 32, &0x1000_u32.to_le_bytes()); // section alignment
    put(0x58 + 36, &0x200_u32.to_le_bytes()); // file alignment
    put(0x58 + 56, &0x4000_u32.to_le_bytes()); // size of image
    put(0x58 + 60, &0x400_u32.to_le_bytes()); // size of headers
    put(0x58 + 64, &0x1234_5678_u32.to_le_bytes()); // checksum
    put(0x58 + 108, &6_u32.to_le_bytes()); // directories
    put(0x58 + 112, &[0; 48]);
    for (section, start, length) in [(0, 0x800_u32, 0x600_u32), (1, 0x400, 0x400)] {
        let at = 0x58 + 160 + 40 * section;
        put(at, &[0; 40]);
        put(at, b".text");
        put(at + 8, &length.to_le_bytes());
        put(at + 12, &(0x1000 + start).to_le_bytes());
        put(at + 16, &length.to_le_bytes());
        put(at + 20, &start.to_le_bytes());
    }
    // Linux's header.
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x210, &[0, 1]);
    put(0x218, &[0; 8]);
    put(0x224, &[0; 4]);
    put(0x228, &[0; 4]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &0x3f_u16.to_le_bytes());
    file
}

fn files<'a>(firmware: &'a [u8], kernel: &'a [u8]) -> LaunchFiles<'a> {
    LaunchFiles {
        firmware,
        kernel,
        initrd: Some(b"initial file system"),
        command_line: "console=ttyS0",
        memory_bytes: 4096 * MIB,
        pages: PageOrder::EachPage,
        handover: Handover::Patched,
    }
}

fn hex(text: &str) -> Measurement {
    text.parse().unwrap()
}

#[test]
fn mrtd_is_what_another_program_computes() {
    // By `reproduceMrtd` of quex-tech/td-report-web (JavaScript, Apache-2.0), which knows the order
    // of sections, over this very file.
    let file = firmware(&SECTIONS[..3]);
    assert_eq!(
        Firmware::parse(&file).unwrap().mrtd(PageOrder::EachSection),
        hex(QUEX_MRTD)
    );
}

#[test]
fn the_authenticode_hash_is_what_another_program_computes() {
    // By `osslsigncode extract-data -h sha384` 2.9 over this very file.
    assert_eq!(authenticode(&kernel()).unwrap(), hex(AUTHENTICODE));
}

#[test]
fn checksum_and_certificates_are_left_out_of_the_authenticode_hash_and_nothing_else() {
    let plain = kernel();
    let hash = authenticode(&plain).unwrap();
    let mut signed = plain.clone();
    signed[0x58 + 64] ^= 1;
    signed[0x58 + 112 + 32..0x58 + 112 + 40]
        .copy_from_slice(&[0x1000_u32.to_le_bytes(), 0x80_u32.to_le_bytes()].concat());
    signed.extend([0xaa; 0x80]);
    assert_eq!(authenticode(&signed).unwrap(), hash);
    let left_out = |at: &usize| (0x98..0x9c).contains(at) || (0xe8..0xf0).contains(at);
    for at in (0..plain.len()).filter(|at| !left_out(at)) {
        let mut changed = plain.clone();
        changed[at] ^= 0x10;
        assert!(
            !authenticode(&changed).is_ok_and(|changed| changed == hash),
            "byte {at:#x} is not in the hash"
        );
    }
}

#[test]
fn registers_are_the_folds_of_their_extensions() {
    let (firmware, kernel) = (firmware(&SECTIONS), kernel());
    let expected = expect(&files(&firmware, &kernel)).unwrap();
    assert_eq!(
        expected.mrtd,
        mrtd_by_the_book(&firmware, &SECTIONS, PageOrder::EachPage)
    );
    let fold = |register| {
        expected
            .extensions
            .iter()
            .filter(|extension| extension.register == register)
            .fold(Measurement::ZERO, |value, extension| {
                value.extended(extension.digest)
            })
    };
    assert_eq!((expected.rtmr1, expected.rtmr2), (fold(1), fold(2)));
    assert_eq!(
        expected.configuration_volume,
        Some(Measurement::of(&firmware[..0x1000]))
    );
    let line = "console=ttyS0 initrd=initrd\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>();
    assert_eq!(
        expected.rtmr2,
        Measurement::ZERO
            .extended(Measurement::of(&line))
            .extended(Measurement::of(b"initial file system"))
    );
}

#[test]
fn each_file_moves_its_register_and_no_other() {
    let (firmware, kernel) = (firmware(&SECTIONS), kernel());
    let base = files(&firmware, &kernel);
    let expected = expect(&base).unwrap();
    let moved = |files: &LaunchFiles<'_>| {
        let other = expect(files).unwrap();
        (
            other.mrtd != expected.mrtd,
            other.rtmr1 != expected.rtmr1,
            other.rtmr2 != expected.rtmr2,
        )
    };
    let mut other_firmware = firmware.clone();
    other_firmware[0x1500] ^= 1;
    let mut other_volume = firmware.clone();
    other_volume[0x500] ^= 1;
    let mut other_kernel = kernel.clone();
    other_kernel[0x900] ^= 1;
    let with = |change: &dyn Fn(&mut LaunchFiles<'_>)| {
        let mut files = base;
        change(&mut files);
        moved(&files)
    };
    assert_eq!(
        moved(&LaunchFiles {
            firmware: &other_firmware,
            ..base
        }),
        (true, false, false)
    );
    assert_eq!(
        moved(&LaunchFiles {
            firmware: &other_volume,
            ..base
        }),
        (false, false, false),
        "the firmware measures its volume into RTMR0"
    );
    assert_eq!(
        moved(&LaunchFiles {
            kernel: &other_kernel,
            ..base
        }),
        (false, true, false)
    );
    assert_eq!(
        with(&|files| files.command_line = "console=ttyS1"),
        (false, false, true)
    );
    assert_eq!(
        with(&|files| files.initrd = Some(b"another of this length")),
        (false, true, true),
        "QEMU writes its size and place into the kernel"
    );
    assert_eq!(
        with(&|files| files.initrd = Some(b"initial file systen")),
        (false, false, true)
    );
    assert_eq!(
        with(&|files| files.memory_bytes = 64 * 1024 * MIB),
        (false, false, false)
    );
    assert_eq!(
        with(&|files| files.memory_bytes = 1024 * MIB),
        (false, true, false),
        "the initial file system lies lower"
    );
    assert_eq!(
        with(&|files| files.handover = Handover::Unchanged),
        (false, true, false)
    );
    assert_eq!(
        with(&|files| files.pages = PageOrder::EachSection),
        (true, false, false)
    );
}

#[test]
fn an_unchanged_kernel_has_the_hash_of_its_file() {
    let (firmware, kernel) = (firmware(&SECTIONS), kernel());
    let expected = expect(&LaunchFiles {
        handover: Handover::Unchanged,
        ..files(&firmware, &kernel)
    })
    .unwrap();
    assert_eq!(
        expected.extensions[0].digest,
        authenticode(&kernel).unwrap()
    );
}

#[test]
fn what_qemu_writes_into_the_header_is_this() {
    let (firmware, kernel) = (firmware(&SECTIONS), kernel());
    let expected = expect(&files(&firmware, &kernel)).unwrap();
    let mut patched = kernel.clone();
    patched[0x210] = 0xb0;
    patched[0x211] = 0x81;
    // Below 2 GiB less 160 KiB, on a page.
    let address = (0x8000_0000_u32 - 0x2_8000 - 1 - 19) & !0xfff;
    patched[0x218..0x21c].copy_from_slice(&address.to_le_bytes());
    patched[0x21c..0x220].copy_from_slice(&19_u32.to_le_bytes());
    patched[0x224..0x226].copy_from_slice(&0xfe00_u16.to_le_bytes());
    patched[0x228..0x22c].copy_from_slice(&0x2_0000_u32.to_le_bytes());
    assert_eq!(
        expected.extensions[0].digest,
        authenticode(&patched).unwrap()
    );
}

#[test]
fn what_cannot_be_measured_is_refused_with_its_reason() {
    let (firmware, kernel) = (firmware(&SECTIONS), kernel());
    let base = files(&firmware, &kernel);
    let refused = |files: &LaunchFiles<'_>| expect(files).unwrap_err();
    assert_eq!(
        refused(&LaunchFiles {
            command_line: "quiet vga=791",
            ..base
        }),
        LaunchMeasureError::Kernel(KernelError::VideoMode)
    );
    assert_eq!(
        refused(&LaunchFiles {
            memory_bytes: 64 * 1024,
            ..base
        }),
        LaunchMeasureError::Kernel(KernelError::NoRoom {
            initrd: 19,
            memory: 64 * 1024
        })
    );
    let long = "x".repeat(2048);
    assert_eq!(
        refused(&LaunchFiles {
            command_line: &long,
            ..base
        }),
        LaunchMeasureError::CommandLine { bytes: 2062 }
    );
    let mut old = kernel.clone();
    old[0x206] = 0x0b;
    assert_eq!(
        refused(&LaunchFiles {
            kernel: &old,
            ..base
        }),
        LaunchMeasureError::Kernel(KernelError::NotLinux)
    );
    assert_eq!(
        refused(&LaunchFiles {
            firmware: &[0; 4096],
            ..base
        }),
        LaunchMeasureError::Firmware(TdvfError::NoTable)
    );
    let outside = [Section {
        offset: 0x2000,
        ..SECTIONS[0]
    }];
    assert!(matches!(
        Firmware::parse(&self::firmware(&outside)),
        Err(TdvfError::Section { index: 0, .. })
    ));
    let huge = [Section {
        size: 1 << 40,
        ..SECTIONS[2]
    }];
    assert!(matches!(
        Firmware::parse(&self::firmware(&huge)),
        Err(TdvfError::Metadata(_))
    ));
}

proptest! {
    #[test]
    fn mrtd_is_by_the_book_whatever_the_sections(
        sections in prop::collection::vec(
            (0_u32..0x2000, 0_u32..0x1000, 0_u64..1 << 20, 1_u64..3, 0_u32..6, 0_u32..4), 1..5),
        each_page in any::<bool>(),
    ) {
        let sections = sections
            .into_iter()
            .map(|(offset, length, page, pages, kind, attributes)| Section {
                offset,
                length,
                address: page * 4096,
                size: pages * 4096,
                kind,
                attributes,
            })
            .collect::<Vec<_>>();
        let order = if each_page { PageOrder::EachPage } else { PageOrder::EachSection };
        let file = firmware(&sections);
        prop_assert_eq!(
            Firmware::parse(&file).unwrap().mrtd(order),
            mrtd_by_the_book(&file, &sections, order)
        );
    }
}

#[test]
fn changed_files_never_panic() {
    let (firmware, kernel) = (firmware(&SECTIONS), kernel());
    bolero::check!()
        .with_iterations(1_000)
        .with_type::<(u16, u32, bool)>()
        .for_each(|(at, word, which)| {
            let (mut firmware, mut kernel) = (firmware.clone(), kernel.clone());
            let (file, start) = if *which {
                let start = firmware.len() - 400;
                (&mut firmware, start)
            } else {
                (&mut kernel, 0)
            };
            let at = start + usize::from(*at) % (file.len() - start - 4);
            file[at..at + 4].copy_from_slice(&word.to_le_bytes());
            let _ = expect(&files(&firmware, &kernel));
        });
}

#[test]
fn random_bytes_are_neither_firmware_nor_kernel() {
    bolero::check!()
        .with_iterations(1_000)
        .for_each(|bytes: &[u8]| {
            let _ = Firmware::parse(bytes);
            let _ = authenticode_parts(bytes);
        });
}

/// Writes the two files, so that other programs can be asked: `COCOON_WRITE_LAUNCH_FILES=folder`.
#[test]
fn the_files_can_be_written_out() {
    if let Some(folder) = std::env::var_os("COCOON_WRITE_LAUNCH_FILES") {
        let folder = std::path::PathBuf::from(folder);
        std::fs::write(folder.join("firmware"), firmware(&SECTIONS[..3])).unwrap();
        std::fs::write(folder.join("kernel"), kernel()).unwrap();
    }
}

const QUEX_MRTD: &str = "e1a0aafa44bfc7d892318ed447f86c2ce6fd1a414df4e2dfd050e99c9e8691a4a2fac4254f31015f2039f850972ebca2";
const AUTHENTICODE: &str = "12cad02ae600dee04b29d7fc382386b67bd0ee51a32b4ad29823970383ddd2a1469f9b34f5db7de1883d96a052b78161";
