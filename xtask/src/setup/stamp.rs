//! Stamps: a small file beside what was fetched that says from which inputs it came, and fingerprints of files.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256, Sha512};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// True when `stamp` exists and holds exactly `key`.
pub fn matches(stamp: &Path, key: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|text| text.trim_end() == key.trim_end())
}

/// Writes the stamp whole or not at all.
pub fn write(stamp: &Path, key: &str) -> Result<()> {
    let temporary = stamp.with_extension("new");
    std::fs::write(&temporary, format!("{key}\n"))
        .with_context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, stamp).with_context(|| format!("write {}", stamp.display()))
}

/// Size and time of change: cheap to compare, different after any rewrite.
pub fn look(file: &Path) -> Option<String> {
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(format!("{} {}.{:09}", meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// SHA-256 of a file, in lower hex.
pub fn sha256(file: &Path) -> Result<String> {
    Ok(hex(&digest::<Sha256>(file)?))
}

/// SHA-256 over names and contents of `files`, in the order of their names.
pub fn sha256_of(files: &[PathBuf]) -> Result<String> {
    let mut sorted = files.to_vec();
    sorted.sort();
    let mut hash = Sha256::new();
    for file in sorted {
        let content = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        hash.update(file.to_string_lossy().as_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(&content);
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-512 of a file in the form of a subresource integrity value (`sha512-<base64>`), as npm registries give it.
pub fn integrity(file: &Path) -> Result<String> {
    use base64::Engine;
    Ok(format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(digest::<Sha512>(file)?)))
}

/// The sum that a `SHA256SUMS` file gives for `name`.
pub fn listed<'a>(sums: &'a str, name: &str) -> Option<&'a str> {
    sums.lines().find_map(|line| {
        let (sum, file) = line.split_once(char::is_whitespace)?;
        (file.trim_start().trim_start_matches(['*']) == name).then_some(sum)
    })
}

fn digest<D: Digest>(file: &Path) -> Result<Vec<u8>> {
    let mut input = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut hash = D::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = input.read(&mut buffer).with_context(|| format!("read {}", file.display()))?;
        if count == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..count]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
