//! The names of rotated audit files: `FILE.<UTC time>.<number of the last record>`.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The directory of a file.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The rotated files of an audit file, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = directory_of(path);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(vec![]) };
    let number = |file: &str| {
        let (time, last) = file.strip_prefix(name)?.strip_prefix('.')?.split_once('.')?;
        let digits = time.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z'));
        last.parse::<u64>().ok().filter(|_| digits)
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(last) = entry.file_name().to_str().and_then(number) {
            found.push((last, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
