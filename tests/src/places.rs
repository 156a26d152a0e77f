//! Where content could be left behind: files, databases, the memory of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rocksdb::{DB, IteratorMode, Options};

use crate::needles::Needles;

/// Bytes looked at at once.
const PIECE: usize = 4 * 1024 * 1024;

/// Where something was found: the place, and what.
pub type Finds = Vec<(String, BTreeSet<String>)>;

fn names(found: &BTreeSet<&str>) -> BTreeSet<String> {
    found.iter().map(|name| (*name).to_owned()).collect()
}

/// Every file below a directory.
#[must_use]
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("a file type");
            assert!(
                !kind.is_symlink(),
                "{} leads elsewhere",
                entry.path().display()
            );
            if kind.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// Looks through the bytes of files, as they are on disk.
#[must_use]
pub fn in_files(files: &[PathBuf], needles: &Needles) -> Finds {
    let mut finds = Vec::new();
    for path in files {
        // RocksDB removes files while a node runs.
        let Ok(mut file) = File::open(path) else {
            continue;
        };
        let found = in_reader(&mut file, needles);
        if !found.is_empty() {
            finds.push((path.display().to_string(), found));
        }
    }
    finds
}

fn in_reader(reader: &mut impl Read, needles: &Needles) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut piece = Vec::new();
    loop {
        let read = reader
            .by_ref()
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .expect("a readable file");
        if read == 0 {
            return found;
        }
        found.extend(names(&needles.find(&piece)));
        let keep = piece.len().saturating_sub(needles.overlap());
        piece.drain(..keep);
    }
}

/// The directories below this one that hold a RocksDB.
#[must_use]
pub fn databases_below(directory: &Path) -> Vec<PathBuf> {
    files_below(directory)
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "CURRENT"))
        .map(|path| path.parent().expect("a directory").to_owned())
        .collect()
}

/// Looks through keys and values of every record of a database that no process has open: what is
/// compressed on disk is not here. Returns what it found and how many records it saw.
#[must_use]
pub fn in_database(directory: &Path, needles: &Needles) -> (BTreeSet<String>, usize) {
    let options = Options::default();
    let columns = DB::list_cf(&options, directory).expect("a database");
    let database = DB::open_cf_for_read_only(&options, directory, &columns, false)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let (mut found, mut records) = (BTreeSet::new(), 0);
    for column in &columns {
        let handle = database.cf_handle(column).expect("a column");
        for pair in database.iterator_cf(handle, IteratorMode::Start) {
            let (key, value) = pair.expect("a record");
            records += 1;
            for bytes in [key, value] {
                found.extend(names(&needles.find(&bytes)));
            }
        }
    }
    (found, records)
}

/// What RocksDB says of its columns' compression: column, setting. From the options file that it
/// writes beside the data.
#[must_use]
pub fn compression(directory: &Path) -> BTreeMap<String, String> {
    let newest = files_below(directory)
        .into_iter()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("OPTIONS-"))
        })
        .max()
        .expect("an options file");
    let text = std::fs::read_to_string(newest).expect("an options file");
    let mut settings = BTreeMap::new();
    let mut column = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("[CFOptions \"") {
            column = rest.trim_end_matches("\"]").to_owned();
        } else if line.starts_with('[') {
            column.clear();
        } else if let Some(value) = line.strip_prefix("compression=")
            && !column.is_empty()
        {
            settings.insert(column.clone(), value.to_owned());
        }
    }
    settings
}

/// What was seen of a process's memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryScan {
    /// What was found, and in which mapping.
    pub found: BTreeMap<String, BTreeSet<String>>,
    /// Bytes read.
    pub bytes: u64,
    /// Mappings that say they are readable and are not, other than the kernel's own and those that
    /// were gone when their turn came.
    pub unreadable: Vec<String>,
}

impl MemoryScan {
    /// Everything that was found, wherever.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        self.found.values().flatten().map(String::as_str).collect()
    }
}

/// Looks through all readable memory of a process: heap, stacks, mapped files, everything that
/// `/proc/PID/maps` lists.
#[must_use]
pub fn in_memory(pid: u32, needles: &Needles) -> MemoryScan {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut scan = MemoryScan::default();
    let mut buffer = vec![0; PIECE];
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next().unwrap(), fields.next().unwrap());
        let name = fields.nth(3).unwrap_or("anonymous");
        // The kernel's own pages cannot be read by others, and a process cannot write to them.
        if !permissions.starts_with('r') || name.starts_with("[v") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range");
        let parse = |text| u64::from_str_radix(text, 16).expect("an address");
        let (mut at, end) = (parse(start), parse(end));
        while at < end {
            let want = usize::try_from(end - at).unwrap().min(PIECE);
            let read = match memory.read_at(&mut buffer[..want], at) {
                Ok(read) if read > 0 => read,
                // Never readable, or gone since the list was made; see below.
                _ => {
                    scan.unreadable.push(line.to_owned());
                    break;
                }
            };
            scan.bytes += u64::try_from(read).unwrap();
            let found = needles.find(&buffer[..read]);
            if !found.is_empty() {
                scan.found
                    .entry(line.to_owned())
                    .or_default()
                    .extend(names(&found));
            }
            let next = at + u64::try_from(read).unwrap();
            let overlap = u64::try_from(needles.overlap()).unwrap();
            // The last bytes of a piece are looked at again with the next, unless that is all there was.
            at = if next < end {
                (at + 1).max(next - overlap)
            } else {
                next
            };
        }
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    scan.unreadable
        .retain(|line| maps.lines().any(|still| still == line));
    scan
}

/// The ordinary files that a process has open for writing.
#[must_use]
pub fn written_files(pid: u32) -> BTreeSet<PathBuf> {
    const ACCESS: u32 = 0o3;
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors") {
        let entry = entry.expect("a descriptor");
        // Closed since the list was made.
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let number = entry.file_name().to_string_lossy().into_owned();
        let Ok(about) = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else {
            continue;
        };
        let flags = about
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .expect("flags");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal flags");
        // Sockets and pipes have no path; devices keep nothing.
        if flags & ACCESS != 0 && target.is_absolute() && !target.starts_with("/dev") {
            files.insert(target);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocksdb::DBCompressionType;

    /// Not in the binary as it is: half of it is made up at run time.
    fn secret(what: &str) -> String {
        format!("{what}-{:032x}", rand::random::<u128>())
    }

    #[test]
    fn a_secret_in_the_memory_of_another_process_is_found_and_where_it_is_not_it_is_not() {
        let secret = secret("held");
        let needles = Needles::of_secrets([("it", secret.as_str())]);
        // Both wait for input; the environment of one is in its memory.
        let waiting = || {
            let mut command = std::process::Command::new("cat");
            command.stdin(std::process::Stdio::piped());
            command
        };
        let mut knows = waiting().env("KNOWN", &secret).spawn().unwrap();
        let mut ignorant = waiting().spawn().unwrap();
        let scans = [&knows, &ignorant].map(|process| in_memory(process.id(), &needles));
        for process in [&mut knows, &mut ignorant] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        assert!(scans[0].names().contains("it, as it is"), "{:?}", scans[0]);
        assert!(scans[1].names().is_empty(), "{:?}", scans[1]);
        for scan in scans {
            assert!(
                scan.bytes > 0 && scan.unreadable.is_empty(),
                "{:?}",
                scan.unreadable
            );
        }
    }

    #[test]
    fn a_secret_at_the_seam_of_two_pieces_of_a_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let secret = secret("planted");
        let needles = Needles::of_secrets([("it", secret.as_str())]);
        let path = directory.path().join("deep/file");
        std::fs::create_dir(directory.path().join("deep")).unwrap();
        for before in [0, PIECE - secret.len() / 2, PIECE - 1, PIECE, 2 * PIECE - 3] {
            let mut bytes = vec![7; before];
            bytes.extend(secret.as_bytes());
            bytes.extend([7; 100]);
            std::fs::write(&path, bytes).unwrap();
            let finds = in_files(&files_below(directory.path()), &needles);
            assert_eq!(finds.len(), 1, "{before}");
            assert_eq!(finds[0].0, path.display().to_string());
        }
        std::fs::write(&path, [7; 100]).unwrap();
        assert!(in_files(&files_below(directory.path()), &needles).is_empty());
    }

    #[test]
    fn a_secret_in_a_compressed_database_is_found_among_its_records() {
        let directory = tempfile::tempdir().unwrap();
        let secret = secret("planted");
        let needles = Needles::of_secrets([("it", secret.as_str())]);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::Snappy);
        {
            let database = DB::open(&options, directory.path()).unwrap();
            // Parts of it first, so that the compressor has something to refer back to.
            for (index, part) in secret.as_bytes().windows(6).enumerate() {
                database.put(index.to_be_bytes(), part).unwrap();
            }
            database.put(b"z", &secret).unwrap();
            database.flush().unwrap();
        }
        assert_eq!(databases_below(directory.path()), [directory.path()]);
        assert_eq!(
            compression(directory.path())["default"],
            "kSnappyCompression"
        );
        let (found, records) = in_database(directory.path(), &needles);
        assert!(found.contains("it, as it is"));
        assert_eq!(records, secret.len() - 5 + 1);
    }

    #[test]
    fn files_open_for_writing_are_told_from_those_open_for_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mine");
        let written = File::create(&path).unwrap();
        assert!(written_files(std::process::id()).contains(&path));
        drop(written);
        let _read = File::open(&path).unwrap();
        assert!(!written_files(std::process::id()).contains(&path));
    }
}
