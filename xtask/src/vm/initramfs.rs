//! The first filesystem of a machine: an archive in cpio's "newc" format (Documentation/driver-api/early-userspace/
//! buffer-format.rst), written here because it takes less than a dependency would.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::run;

const REGULAR: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;
const CHARACTERS: u32 = 0o020_600;

/// An archive under way.
#[derive(Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// One with the console that the kernel gives to init.
    pub fn new() -> Self {
        let mut archive = Self::default();
        archive.directories_of("dev/console");
        archive.entry("dev/console", CHARACTERS, (5, 1), &[]);
        archive
    }

    /// Adds a file that may be run, and the directories above it. `name` is without the leading slash.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        self.directories_of(name);
        self.entry(name, REGULAR, (0, 0), data);
    }

    /// Adds a program as `name`, without its symbols, and the shared libraries that it wants where it wants them.
    ///
    /// # Errors
    /// When one of them can't be read.
    pub fn program(&mut self, name: &str, program: &Path, stripped: &Path) -> Result<()> {
        run::output(Command::new("strip").arg("-o").arg(stripped).arg(program))?;
        self.file(name, &read(stripped)?);
        let wanted = run::output(Command::new("ldd").arg(program))?;
        for library in libraries(&wanted) {
            self.file(library.trim_start_matches('/'), &read(Path::new(library))?);
        }
        Ok(())
    }

    /// The whole of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn directories_of(&mut self, name: &str) {
        for (at, _) in name.match_indices('/') {
            let directory = &name[..at];
            if self.directories.insert(directory.to_owned()) {
                self.entry(directory, DIRECTORY, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Names and data begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// The files that `ldd` names: libraries and the loader itself.
fn libraries(text: &str) -> Vec<&str> {
    text.lines().filter_map(library).collect()
}

fn library(line: &str) -> Option<&str> {
    let line = line.split(" (").next()?.trim();
    let path = line.split_once(" => ").map_or(line, |(_, path)| path);
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_are_those_with_a_path() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f03)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(text), expected);
        assert_eq!(libraries("\tnot a dynamic executable\n"), Vec::<&str>::new());
    }

    #[derive(Debug, PartialEq)]
    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        data: Vec<u8>,
    }

    /// Each entry, read by the format's rules.
    fn entries(bytes: &[u8]) -> Vec<Entry> {
        let (mut at, mut found) = (0, Vec::new());
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |number: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + number * 8..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[at + 110..][..name_size - 1].to_vec()).unwrap();
            let begin = (at + 110 + name_size).next_multiple_of(4);
            let data = bytes[begin..begin + size].to_vec();
            found.push(Entry { name, mode: field(1), device: (field(9), field(10)), data });
            at = (begin + size).next_multiple_of(4);
        }
        found
    }

    #[test]
    fn an_archive_holds_files_below_their_directories_and_a_console() {
        let mut archive = Archive::new();
        archive.file("init", b"program");
        archive.file("lib/x/libc.so.6", b"library");
        archive.file("lib/x/libm.so.6", b"");
        let entry = |name: &str, mode, device, data: &[u8]| Entry {
            name: name.to_owned(),
            mode,
            device,
            data: data.to_vec(),
        };
        let directory = |name| entry(name, DIRECTORY, (0, 0), b"");
        let file = |name, data| entry(name, REGULAR, (0, 0), data);
        let expected = [
            directory("dev"),
            entry("dev/console", CHARACTERS, (5, 1), b""),
            file("init", b"program"),
            directory("lib"),
            directory("lib/x"),
            file("lib/x/libc.so.6", b"library"),
            file("lib/x/libm.so.6", b""),
            entry("TRAILER!!!", 0, (0, 0), b""),
        ];
        assert_eq!(entries(&archive.finish()), expected);
    }
}
