//! Reading sealed models.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cocoon_protocol::Digest;
use cocoon_protocol::vault::{ContentKey, MAX_SEALED_HEADER_BYTES, SealedHeader};
use ring::digest::{Context, SHA256, digest};
use zeroize::Zeroizing;

use super::key::{FileKeys, Place, key_id};
use super::memory::SecretBytes;
use super::{DIGEST_BYTES, MAGIC, PROLOGUE_BYTES, SealedError, TAG_BYTES, VERSION};

/// Whether a file begins as a sealed model does.
///
/// # Errors
/// [`SealedError::Io`].
pub fn is_sealed(path: &Path) -> Result<bool, SealedError> {
    // Looked at before it is opened: opening a named pipe would wait for a writer.
    let failed = |error| io(path, error);
    if !path.metadata().map_err(failed)?.is_file() {
        return Ok(false);
    }
    let mut begin = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut begin))
        .map_err(failed)?;
    Ok(begin == MAGIC)
}

/// A sealed model whose header and list have been read and fit together. Nothing of it is authenticated
/// before [`Self::decrypt`].
pub struct Sealed<R = File> {
    file: PathBuf,
    reader: R,
    header: SealedHeader,
    /// All bytes that the tag is made over.
    head: Vec<u8>,
    tag: [u8; DIGEST_BYTES],
    list: Vec<u8>,
    /// Where the chunks begin.
    body: u64,
    length: u64,
}

impl Sealed<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// What is wrong with it; it may be a stranger's.
    pub fn open(path: &Path) -> Result<Self, SealedError> {
        if !path.metadata().map_err(|error| io(path, error))?.is_file() {
            return Err(SealedError::NotSealed {
                file: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(|error| io(path, error))?;
        Self::read(path, file)
    }
}

impl<R: Read + Seek> Sealed<R> {
    /// Reads header and list. `path` stands for the reader in errors.
    ///
    /// # Errors
    /// As [`Sealed::open`].
    pub fn read(path: &Path, mut reader: R) -> Result<Self, SealedError> {
        let failed = |error| io(path, error);
        let file = || path.to_owned();
        let length = reader.seek(SeekFrom::End(0)).map_err(failed)?;
        reader.rewind().map_err(failed)?;
        let mut head = Vec::new();
        let prologue = PROLOGUE_BYTES as u64;
        let got = reader.by_ref().take(prologue).read_to_end(&mut head);
        if got.map_err(failed)? < PROLOGUE_BYTES || !head.starts_with(MAGIC) {
            return Err(SealedError::NotSealed { file: file() });
        }
        let number = |at: usize| {
            let bytes = head.get(at..).and_then(|rest| rest.first_chunk::<2>());
            bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
        };
        let (version, header_bytes) = (number(MAGIC.len()), number(MAGIC.len().saturating_add(2)));
        if version != VERSION {
            return Err(SealedError::Version {
                file: file(),
                found: version,
                known: VERSION,
            });
        }
        // One byte more than is allowed is read at most, and refused by the decoder.
        let most = (MAX_SEALED_HEADER_BYTES as u64).saturating_add(1);
        let mut encoded = Vec::new();
        let wanted = u64::from(header_bytes).min(most);
        reader
            .by_ref()
            .take(wanted)
            .read_to_end(&mut encoded)
            .map_err(failed)?;
        let header = SealedHeader::decode(&encoded).map_err(|error| SealedError::Header {
            file: file(),
            error,
        })?;
        head.extend_from_slice(&encoded);

        // Before anything is allocated by what the header says.
        let list_bytes = header.count().saturating_mul(DIGEST_BYTES as u64);
        let body = (head.len() as u64)
            .saturating_add(DIGEST_BYTES as u64)
            .saturating_add(list_bytes);
        let tags = header.count().saturating_mul(TAG_BYTES as u64);
        let expected = body.saturating_add(header.plain_bytes).saturating_add(tags);
        if length != expected {
            return Err(SealedError::Length {
                file: file(),
                expected,
                got: length,
            });
        }
        let mut tag = [0; DIGEST_BYTES];
        reader.read_exact(&mut tag).map_err(failed)?;
        let mut list = Vec::new();
        reader
            .by_ref()
            .take(list_bytes)
            .read_to_end(&mut list)
            .map_err(failed)?;
        if digest(&SHA256, &list).as_ref() != header.chunks.as_bytes() {
            return Err(SealedError::List { file: file() });
        }
        Ok(Self {
            file: file(),
            reader,
            header,
            head,
            tag,
            list,
            body,
            length,
        })
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> &SealedHeader {
        &self.header
    }

    /// Bytes of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Without a key: whether every chunk is the one of the list. `progress` is told `(plain bytes done, plain
    /// bytes in all)`.
    ///
    /// # Errors
    /// [`SealedError::Chunk`] with the first one that is not.
    pub fn check(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), SealedError> {
        let digests: Vec<[u8; DIGEST_BYTES]> = self.list.as_chunks().0.to_vec();
        self.chunks(progress, |_, place, chunk| {
            let at = usize::try_from(place.number).ok();
            let listed = at.and_then(|at| digests.get(at));
            Ok(listed.is_some_and(|listed| digest(&SHA256, chunk).as_ref() == listed))
        })
    }

    /// Opens the weights into memory, and gives them out only if they are those of the header.
    ///
    /// # Errors
    /// [`SealedError::WrongKey`], and whatever is wrong with the file.
    pub fn decrypt(
        &mut self,
        key: &ContentKey,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SecretBytes, SealedError> {
        let keys = self.keys(key)?;
        let mut plain = SecretBytes::zeroed(self.header.plain_bytes)?;
        let mut hash = Context::new(&SHA256);
        let mut rest = plain.bytes_mut();
        self.chunks(progress, |file, place, chunk| {
            let Some(opened) = keys.open(place, chunk)? else {
                return Ok(false);
            };
            hash.update(opened);
            let Some((here, after)) = std::mem::take(&mut rest).split_at_mut_checked(opened.len())
            else {
                // The header's numbers were checked to add up.
                return Err(io(file, std::io::ErrorKind::InvalidData.into()));
            };
            here.copy_from_slice(opened);
            rest = after;
            Ok(true)
        })?;
        self.is_the_models(hash)?;
        Ok(plain)
    }

    /// Opens the weights into a writer, as they come. What was written counts for nothing if this fails.
    ///
    /// # Errors
    /// As [`Self::decrypt`].
    pub fn decrypt_into(
        &mut self,
        key: &ContentKey,
        out: &mut impl Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), SealedError> {
        let keys = self.keys(key)?;
        let mut hash = Context::new(&SHA256);
        self.chunks(progress, |file, place, chunk| {
            let Some(opened) = keys.open(place, chunk)? else {
                return Ok(false);
            };
            hash.update(opened);
            out.write_all(opened).map_err(|error| io(file, error))?;
            Ok(true)
        })?;
        self.is_the_models(hash)
    }

    /// The file's keys, if this content key is its own and the header is the one that was sealed.
    fn keys(&self, key: &ContentKey) -> Result<FileKeys, SealedError> {
        let got = key_id(key)?;
        if got != self.header.key_id {
            return Err(SealedError::WrongKey {
                file: self.file.clone(),
                wanted: hex(&self.header.key_id),
                got: hex(&got),
            });
        }
        let keys = FileKeys::new(key, &self.header.salt)?;
        if !keys.tag_fits(&self.head, &self.tag) {
            return Err(SealedError::HeaderAltered {
                file: self.file.clone(),
            });
        }
        Ok(keys)
    }

    /// Hands each sealed chunk in its place to `take`, which says whether it is in order.
    fn chunks(
        &mut self,
        progress: &mut dyn FnMut(u64, u64),
        mut take: impl FnMut(&Path, Place, &mut [u8]) -> Result<bool, SealedError>,
    ) -> Result<(), SealedError> {
        let Self {
            file,
            reader,
            header,
            body,
            ..
        } = self;
        let failed = |error| io(file, error);
        reader.seek(SeekFrom::Start(*body)).map_err(failed)?;
        let count = header.count();
        let mut done = 0_u64;
        // Holds plain bytes after a chunk was opened in it.
        let mut buffer = Zeroizing::new(Vec::new());
        progress(0, header.plain_bytes);
        for number in 0..count {
            let plain = header.chunk_length(number);
            let sealed = plain.saturating_add(TAG_BYTES as u64);
            buffer.clear();
            let got = reader.by_ref().take(sealed).read_to_end(&mut buffer);
            let place = Place {
                number,
                last: number.saturating_add(1) == count,
            };
            let whole = got.map_err(failed)? as u64 == sealed;
            if !whole || !take(file, place, &mut buffer)? {
                return Err(SealedError::Chunk {
                    file: file.clone(),
                    number: number.saturating_add(1),
                    count,
                });
            }
            done = done.saturating_add(plain);
            progress(done, header.plain_bytes);
        }
        Ok(())
    }

    fn is_the_models(&self, hash: Context) -> Result<(), SealedError> {
        let mut got = [0; DIGEST_BYTES];
        got.copy_from_slice(hash.finish().as_ref());
        let (claimed, got) = (self.header.model, Digest::from_bytes(got));
        if claimed == got {
            return Ok(());
        }
        Err(SealedError::OtherWeights {
            file: self.file.clone(),
            claimed,
            got,
        })
    }
}

impl<R> std::fmt::Debug for Sealed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed")
            .field("file", &self.file)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

pub(super) fn io(file: &Path, error: std::io::Error) -> SealedError {
    SealedError::Io {
        file: file.to_owned(),
        error,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
