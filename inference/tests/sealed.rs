//! Sealed models: what was sealed opens to the same bytes, and nothing else opens.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::io::Cursor;
use std::path::Path;

use cocoon_inference::checkpoint::Checkpoint;
use cocoon_inference::sealed::{
    MAGIC, OwnerKey, SealTerms, Sealed, SealedError, SecretBytes, is_sealed, key_id, seal,
    seal_file,
};
use cocoon_protocol::Digest;
use cocoon_protocol::vault::{ContentKey, MIN_CHUNK_BYTES, SealedHeader};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const CHUNK: usize = MIN_CHUNK_BYTES as usize;
/// Magic, version and length of the header.
const PROLOGUE: usize = 18;

fn owner() -> OwnerKey {
    OwnerKey::from_bytes([7; 32])
}

fn terms() -> SealTerms {
    SealTerms {
        name: "a model".to_owned(),
        chunk_bytes: MIN_CHUNK_BYTES,
    }
}

fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(length as u64).fill_bytes(&mut bytes);
    bytes
}

fn sealed(plain: &[u8]) -> (Vec<u8>, SealedHeader) {
    let mut out = Cursor::new(Vec::new());
    let name = Path::new("plain");
    let mut reader = Cursor::new(plain);
    let header = seal(
        name,
        &mut reader,
        name,
        &mut out,
        &owner(),
        &terms(),
        &mut |_, _| {},
    );
    (out.into_inner(), header.unwrap())
}

fn read(file: &[u8]) -> Result<Sealed<Cursor<&[u8]>>, SealedError> {
    Sealed::read(Path::new("sealed"), Cursor::new(file))
}

fn open(file: &[u8], key: &ContentKey) -> Result<SecretBytes, SealedError> {
    read(file)?.decrypt(key, &mut |_, _| {})
}

fn content(header: &SealedHeader) -> ContentKey {
    owner().content_key(&header.model).unwrap()
}

/// The parts of a file with this header: head with tag, list, chunks.
fn parts(file: &[u8], header: &SealedHeader) -> (Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let head = PROLOGUE + header.encode().len() + 32;
    let count = header.count() as usize;
    let list = file[head..head + 32 * count].chunks(32).map(<[u8]>::to_vec);
    let body = file[head + 32 * count..]
        .chunks(CHUNK + 16)
        .map(<[u8]>::to_vec);
    (file[..head].to_vec(), list.collect(), body.collect())
}

fn join(head: &[u8], list: &[Vec<u8>], body: &[Vec<u8>]) -> Vec<u8> {
    [head, &list.concat(), &body.concat()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_sealed_opens_to_the_same_bytes(length in 1_usize..6 * CHUNK) {
        let plain = bytes(length);
        let (file, header) = sealed(&plain);
        prop_assert_eq!(header.model, Digest::sha256(&plain));
        prop_assert_eq!(header.plain_bytes, length as u64);
        let mut sealed = read(&file).unwrap();
        prop_assert_eq!(sealed.header(), &header);
        sealed.check(&mut |_, _| {}).unwrap();
        let mut told = Vec::new();
        let opened = sealed.decrypt(&content(&header), &mut |done, all| told.push((done, all))).unwrap();
        prop_assert_eq!(&opened[..], &plain);
        prop_assert_eq!(told.last(), Some(&(length as u64, length as u64)));
        let mut out = Vec::new();
        sealed.decrypt_into(&content(&header), &mut out, &mut |_, _| {}).unwrap();
        prop_assert_eq!(out, plain);
    }

    #[test]
    fn a_file_that_was_cut_or_grew_is_refused(length in 1_usize..4 * CHUNK, at: prop::sample::Index) {
        let (file, _) = sealed(&bytes(length));
        let cut = at.index(file.len());
        prop_assert!(read(&file[..cut]).is_err(), "cut to {}", cut);
        let grown = [&file[..], &[0]].concat();
        let refused = matches!(read(&grown), Err(SealedError::Length { .. }));
        prop_assert!(refused, "one byte more");
    }
}

#[test]
fn whole_chunks_and_one_byte_more_open_too() {
    for length in [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let plain = bytes(length);
        let (file, header) = sealed(&plain);
        assert_eq!(
            &open(&file, &content(&header)).unwrap()[..],
            plain,
            "{length}"
        );
        assert_eq!(header.count() as usize, length.div_ceil(CHUNK));
    }
}

/// One bit each, in 10,000 places and orders that the seed fixes.
#[test]
fn not_one_of_ten_thousand_flipped_bits_is_accepted() {
    let (file, header) = sealed(&bytes(3 * CHUNK + 100));
    let key = content(&header);
    let mut random = ChaCha8Rng::seed_from_u64(20_261_121);
    let mut accepted = Vec::new();
    for flip in 0..10_000 {
        let mut file = file.clone();
        // The first flips go through every byte of the head; those after it anywhere.
        let head = PROLOGUE + header.encode().len() + 32 + 4 * 32;
        let at = if flip < head {
            flip
        } else {
            random.next_u64() as usize % file.len()
        };
        let bit = random.next_u32() % 8;
        file[at] ^= 1 << bit;
        if open(&file, &key).is_ok() {
            accepted.push((at, bit));
        }
        if at >= head {
            // Of a chunk it is seen without the key too.
            let error = read(&file).unwrap().check(&mut |_, _| {}).unwrap_err();
            let wanted = (at - head) / (CHUNK + 16) + 1;
            assert!(
                matches!(error, SealedError::Chunk { number, count: 4, .. } if number as usize == wanted),
                "{error}"
            );
        }
    }
    assert_eq!(accepted, []);
}

#[test]
fn chunks_in_another_order_twice_or_missing_are_refused() {
    let (file, header) = sealed(&bytes(4 * CHUNK));
    let key = content(&header);
    let (head, list, body) = parts(&file, &header);
    assert_eq!(join(&head, &list, &body), file);
    let refuse =
        |list: &[Vec<u8>], body: &[Vec<u8>]| open(&join(&head, list, body), &key).unwrap_err();
    let mut swapped = body.clone();
    swapped.swap(1, 2);
    assert!(matches!(
        refuse(&list, &swapped),
        SealedError::Chunk {
            number: 2,
            count: 4,
            ..
        }
    ));
    let mut twice = body.clone();
    twice[2] = twice[1].clone();
    assert!(matches!(
        refuse(&list, &twice),
        SealedError::Chunk { number: 3, .. }
    ));
    let mut first_last = body.clone();
    first_last.swap(0, 3);
    assert!(matches!(
        refuse(&list, &first_last),
        SealedError::Chunk { number: 1, .. }
    ));
    assert!(matches!(
        refuse(&list, &body[..3]),
        SealedError::Length { .. }
    ));
    let mut other_list = list.clone();
    other_list.swap(1, 2);
    assert!(matches!(
        refuse(&other_list, &swapped),
        SealedError::List { .. }
    ));
}

/// Whoever has the file and no key can make list and header fit other chunks. Not the tag.
#[test]
fn a_header_made_to_fit_other_chunks_is_refused() {
    let (file, header) = sealed(&bytes(4 * CHUNK));
    let key = content(&header);
    let (head, mut list, mut body) = parts(&file, &header);
    let tag = &head[head.len() - 32..];
    let remade = |header: &SealedHeader, list: &[Vec<u8>], body: &[Vec<u8>]| {
        let header = SealedHeader {
            chunks: Digest::sha256(&list.concat()),
            ..header.clone()
        };
        let encoded = header.encode();
        let length = u16::try_from(encoded.len()).unwrap().to_le_bytes();
        let head = [&MAGIC[..], &[1, 0], &length, &encoded, tag].concat();
        join(&head, list, body)
    };
    // As it was, this way of making it gives the same file.
    assert_eq!(remade(&header, &list, &body), file);
    // Cut at a chunk's end.
    let shorter = SealedHeader {
        plain_bytes: 3 * CHUNK as u64,
        ..header.clone()
    };
    let cut = remade(&shorter, &list[..3], &body[..3]);
    read(&cut).unwrap().check(&mut |_, _| {}).unwrap();
    assert!(matches!(
        open(&cut, &key),
        Err(SealedError::HeaderAltered { .. })
    ));
    // Another name, other weights.
    let renamed = SealedHeader {
        name: "another".to_owned(),
        ..header.clone()
    };
    let renamed = remade(&renamed, &list, &body);
    assert!(matches!(
        open(&renamed, &key),
        Err(SealedError::HeaderAltered { .. })
    ));
    let other = SealedHeader {
        model: Digest::sha256(b"other"),
        ..header.clone()
    };
    assert!(matches!(
        open(&remade(&other, &list, &body), &key),
        Err(SealedError::HeaderAltered { .. })
    ));
    // Reordered, with a list that fits.
    list.swap(0, 1);
    body.swap(0, 1);
    assert!(matches!(
        open(&remade(&header, &list, &body), &key),
        Err(SealedError::HeaderAltered { .. })
    ));
}

#[test]
fn another_key_is_named_and_refused() {
    let (file, header) = sealed(&bytes(CHUNK));
    let others = [
        OwnerKey::from_bytes([8; 32])
            .content_key(&header.model)
            .unwrap(),
        owner()
            .content_key(&Digest::sha256(b"another model"))
            .unwrap(),
    ];
    for other in others {
        let error = open(&file, &other).unwrap_err();
        assert!(matches!(error, SealedError::WrongKey { .. }), "{error}");
        assert_ne!(key_id(&other).unwrap(), header.key_id);
    }
    assert_eq!(key_id(&content(&header)).unwrap(), header.key_id);
}

#[test]
fn the_same_model_sealed_twice_is_two_files_that_one_key_opens() {
    let plain = bytes(2 * CHUNK);
    let ((first, header), (second, again)) = (sealed(&plain), sealed(&plain));
    assert_ne!(header.salt, again.salt);
    assert_eq!((header.model, header.key_id), (again.model, again.key_id));
    let (_, _, one) = parts(&first, &header);
    let (_, _, two) = parts(&second, &again);
    assert!(one.iter().zip(&two).all(|(one, two)| one != two));
    assert_eq!(&open(&second, &content(&header)).unwrap()[..], plain);
}

#[test]
fn another_implementation_seals_the_same_way() {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("fixtures/sealed.json")).unwrap();
    let of = |value: &serde_json::Value| unhex(value.as_str().unwrap());
    let owner = OwnerKey::from_bytes(of(&fixture["owner_key"]).try_into().unwrap());
    let plain = of(&fixture["plain"]);
    let file = of(&fixture["honest"]["sealed"]);
    let mut sealed = read(&file).unwrap();
    sealed.check(&mut |_, _| {}).unwrap();
    let key = owner.content_key(&sealed.header().model).unwrap();
    assert_eq!(key_id(&key).unwrap()[..], of(&fixture["honest"]["key_id"]));
    assert_eq!(&sealed.decrypt(&key, &mut |_, _| {}).unwrap()[..], plain);

    // Its owner's key fits, and the weights are not the ones of the header.
    let lying = of(&fixture["lying"]["sealed"]);
    let key = owner
        .content_key(&Digest::sha256(b"other weights"))
        .unwrap();
    let error = open(&lying, &key).unwrap_err();
    assert!(
        matches!(&error, SealedError::OtherWeights { claimed, got, .. }
            if *claimed == Digest::sha256(b"other weights") && *got == Digest::sha256(&plain)),
        "{error}"
    );
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn random_bytes_and_random_headers_are_refused_without_a_panic() {
    let (file, header) = sealed(&bytes(CHUNK + 1));
    let key = content(&header);
    bolero::check!()
        .with_iterations(3_000)
        .with_type::<(u16, Vec<u8>)>()
        .for_each(|(at, noise)| {
            let behind = [&MAGIC[..], &[1, 0], noise].concat();
            let mut disturbed = file.clone();
            let at = usize::from(*at) % disturbed.len();
            let end = (at + noise.len()).min(disturbed.len());
            disturbed.splice(at..end, noise.iter().copied());
            for bytes in [noise, &behind, &disturbed] {
                if let Ok(opened) = open(bytes, &key) {
                    assert_eq!(bytes, &file);
                    assert_eq!(opened.len(), CHUNK + 1);
                }
            }
        });
}

#[test]
fn a_file_of_another_kind_or_a_later_version_says_so() {
    assert!(matches!(read(b"GGUF"), Err(SealedError::NotSealed { .. })));
    assert!(matches!(read(b""), Err(SealedError::NotSealed { .. })));
    let (mut file, _) = sealed(&bytes(10));
    file[MAGIC.len()] = 2;
    assert!(matches!(
        read(&file),
        Err(SealedError::Version {
            found: 2,
            known: 1,
            ..
        })
    ));
    // A header that promises a terabyte costs nothing: the file's length is looked at first.
    let huge = SealedHeader {
        plain_bytes: 1 << 40,
        chunk_bytes: 1 << 20,
        ..sealed(&bytes(10)).1
    };
    let encoded = huge.encode();
    let length = u16::try_from(encoded.len()).unwrap().to_le_bytes();
    let file = [&MAGIC[..], &[1, 0], &length, &encoded, &[0; 64]].concat();
    assert!(matches!(read(&file), Err(SealedError::Length { .. })));
}

#[test]
fn a_gguf_file_is_sealed_on_disk_and_nothing_is_left_of_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain.gguf");
    let out = directory.path().join("out.cocoon-sealed");
    let seal = |plain: &Path| seal_file(plain, &out, &owner(), &terms(), &mut |_, _| {});
    std::fs::write(&plain, b"no model").unwrap();
    assert!(matches!(seal(&plain), Err(SealedError::NotGguf { .. })));
    assert!(matches!(
        seal(directory.path()),
        Err(SealedError::NotGguf { .. })
    ));
    assert!(!out.exists());
    std::fs::write(&plain, [b"GGUF", &bytes(CHUNK)[..]].concat()).unwrap();
    let unnamed = SealTerms {
        name: String::new(),
        ..terms()
    };
    let refused = seal_file(&plain, &out, &owner(), &unnamed, &mut |_, _| {});
    assert!(matches!(refused, Err(SealedError::Terms { .. })));
    assert!(!out.exists());
    let header = seal(&plain).unwrap();
    assert!(is_sealed(&out).unwrap() && !is_sealed(&plain).unwrap());
    // Never over another file.
    assert!(matches!(seal(&plain), Err(SealedError::Io { .. })));
    let mut sealed = Sealed::open(&out).unwrap();
    assert_eq!(sealed.header(), &header);
    assert_eq!(sealed.length(), std::fs::metadata(&out).unwrap().len());
    // It opens; that these weights are no model is seen after that.
    let error =
        Checkpoint::from_sealed(&mut sealed, &content(&header), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("a model"), "{error}");
}

#[test]
fn keys_and_weights_are_never_printed() {
    let memory = SecretBytes::zeroed(5).unwrap();
    assert_eq!(
        format!("{:?} {memory:?}", owner()),
        "OwnerKey(…) SecretBytes(5 bytes)"
    );
}
