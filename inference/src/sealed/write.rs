//! Sealing a model, on its owner's machine.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use cocoon_protocol::Digest;
use cocoon_protocol::vault::SealedHeader;
use ring::digest::{Context, SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::key::{FileKeys, OwnerKey, Place, key_id};
use super::read::io;
use super::{DIGEST_BYTES, MAGIC, SealedError, VERSION};

/// Plain bytes of a chunk, as models are sealed.
pub const CHUNK_BYTES: u32 = 1 << 20;
/// What GGUF files begin with.
const GGUF: &[u8] = b"GGUF";
/// Bytes read at once while the digest is computed.
const READ_BYTES: usize = 1 << 20;

/// How a model is sealed.
#[derive(Clone, Debug)]
pub struct SealTerms {
    /// The model's name, 1 to 128 bytes; everybody can read it.
    pub name: String,
    /// Plain bytes of a chunk: [`CHUNK_BYTES`], but for tests.
    pub chunk_bytes: u32,
}

/// Seals the GGUF file `plain` into the new file `out`. `progress` is told `(bytes done, bytes in all)`;
/// every byte is read twice.
///
/// # Errors
/// [`SealedError`]; then there is no file `out`.
pub fn seal_file(
    plain: &Path,
    out: &Path,
    key: &OwnerKey,
    terms: &SealTerms,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SealedHeader, SealedError> {
    let refused = || SealedError::NotGguf {
        file: plain.to_owned(),
    };
    if !plain
        .metadata()
        .map_err(|error| io(plain, error))?
        .is_file()
    {
        return Err(refused());
    }
    let mut reader = File::open(plain).map_err(|error| io(plain, error))?;
    let mut begin = Vec::new();
    Read::take(&mut reader, GGUF.len() as u64)
        .read_to_end(&mut begin)
        .map_err(|error| io(plain, error))?;
    if begin != GGUF {
        return Err(refused());
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(out)
        .map_err(|error| io(out, error))?;
    let mut writer = BufWriter::new(file);
    let sealed =
        seal(plain, &mut reader, out, &mut writer, key, terms, progress).and_then(|header| {
            let file = writer.into_inner().map_err(|error| error.into_error());
            file.and_then(|file| file.sync_all())
                .map_err(|error| io(out, error))?;
            Ok(header)
        });
    if sealed.is_err() {
        // Half a file is of no use, and not ours to leave behind.
        let _ = std::fs::remove_file(out);
    }
    sealed
}

/// Seals what `reader` has into `writer`; the paths stand for them in errors.
///
/// # Errors
/// [`SealedError`]; then what was written is of no use.
pub fn seal(
    plain: &Path,
    reader: &mut (impl Read + Seek),
    out: &Path,
    writer: &mut (impl Write + Seek),
    key: &OwnerKey,
    terms: &SealTerms,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SealedHeader, SealedError> {
    let (at_plain, at_out) = (|error| io(plain, error), |error| io(out, error));
    let plain_bytes = reader.seek(SeekFrom::End(0)).map_err(at_plain)?;
    let total = plain_bytes.saturating_mul(2);
    let mut done = 0_u64;
    let mut tell = |more: usize| {
        done = done.saturating_add(more as u64);
        progress(done, total);
    };
    reader.rewind().map_err(at_plain)?;
    let model = digest_of(reader, &mut tell).map_err(at_plain)?;

    let content = key.content_key(&model)?;
    let mut salt = [0; 32];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| SealedError::Library)?;
    let mut header = SealedHeader {
        model,
        plain_bytes,
        chunk_bytes: terms.chunk_bytes,
        key_id: key_id(&content)?,
        salt,
        name: terms.name.clone(),
        // Filled in at the end; a digest is as long as another.
        chunks: Digest::from_bytes([0xff; DIGEST_BYTES]),
    };
    // What we write must be what others read.
    SealedHeader::decode(&header.encode()).map_err(|error| SealedError::Terms {
        file: plain.to_owned(),
        error,
    })?;
    let keys = FileKeys::new(&content, &salt)?;
    let count = header.count();
    let list_bytes = count.saturating_mul(DIGEST_BYTES as u64);
    let before = (head(&header)?.len() as u64).saturating_add(DIGEST_BYTES as u64);
    writer
        .seek(SeekFrom::Start(before.saturating_add(list_bytes)))
        .map_err(at_out)?;

    reader.rewind().map_err(at_plain)?;
    let mut hash = Context::new(&SHA256);
    let mut list = Vec::new();
    let mut chunk = Zeroizing::new(Vec::new());
    for number in 0..count {
        chunk.clear();
        let length = header.chunk_length(number);
        let got = reader.by_ref().take(length).read_to_end(&mut chunk);
        if got.map_err(at_plain)? as u64 != length {
            return Err(changed(plain));
        }
        hash.update(&chunk);
        let place = Place {
            number,
            last: number.saturating_add(1) == count,
        };
        keys.seal(place, &mut chunk)?;
        list.extend_from_slice(digest(&SHA256, &chunk).as_ref());
        writer.write_all(&chunk).map_err(at_out)?;
        tell(usize::try_from(length).unwrap_or(usize::MAX));
    }
    // Read twice, so it is seen when it was another file the second time.
    if hash.finish().as_ref() != model.as_bytes() {
        return Err(changed(plain));
    }
    let mut root = [0; DIGEST_BYTES];
    root.copy_from_slice(digest(&SHA256, &list).as_ref());
    header.chunks = Digest::from_bytes(root);
    let head = head(&header)?;
    let tag = keys.tag(&head);
    writer.rewind().map_err(at_out)?;
    for part in [head.as_slice(), tag.as_ref(), &list] {
        writer.write_all(part).map_err(at_out)?;
    }
    writer.flush().map_err(at_out)?;
    Ok(header)
}

/// Magic, version, length and header: what the tag is made over.
fn head(header: &SealedHeader) -> Result<Vec<u8>, SealedError> {
    let encoded = header.encode();
    let length = u16::try_from(encoded.len()).map_err(|_| SealedError::Library)?;
    let (version, length) = (VERSION.to_le_bytes(), length.to_le_bytes());
    Ok([&MAGIC[..], &version, &length, &encoded].concat())
}

fn digest_of(reader: &mut impl Read, tell: &mut impl FnMut(usize)) -> std::io::Result<Digest> {
    let mut hash = Context::new(&SHA256);
    let mut buffer = Zeroizing::new(vec![0; READ_BYTES]);
    loop {
        let read = reader.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hash.update(bytes);
        tell(read);
    }
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(hash.finish().as_ref());
    Ok(Digest::from_bytes(digest))
}

fn changed(file: &Path) -> SealedError {
    SealedError::Changed {
        file: file.to_owned(),
    }
}
