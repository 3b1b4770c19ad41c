//! One virtual machine: its disks, its emulator, and what it says.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::report::Line;
use crate::run;
use crate::say::Heartbeat;

/// The least that mkfs.xfs makes. The file has holes: only what is written takes room.
const DISK_BYTES: u64 = 320 << 20;

/// What both serial ports of a machine said, and what is in the way of its end.
const CONSOLE: &str = "console.log";
const ANSWERS: &str = "answers.jsonl";

/// Nothing is left for the kernel to write in the background.
const LAZY: &str = "lazy_itable_init=0,lazy_journal_init=0";

/// What a machine is made of.
pub struct Machine<'a> {
    /// The compressed kernel.
    pub image: &'a Path,
    /// Its first filesystem.
    pub initramfs: &'a [u8],
    /// Where its files may be; emptied first.
    pub directory: &'a Path,
    /// What runs its instructions: `tcg`, `kvm`.
    pub accelerator: &'a str,
    /// Memory, in MiB.
    pub memory_mib: u32,
}

/// How it ended.
pub struct Ended {
    /// What it answered.
    pub lines: Vec<Line>,
    /// How long it ran.
    pub time: Duration,
    /// It had to be ended.
    pub timed_out: bool,
    /// What the kernel said.
    pub console: PathBuf,
}

/// Ends the emulator whatever happens.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots it and waits for its end, `limit` at most.
    ///
    /// # Errors
    /// When it can't be made or started.
    pub fn run(&self, limit: Duration) -> Result<Ended> {
        if self.directory.exists() {
            std::fs::remove_dir_all(self.directory)
                .with_context(|| format!("empty {}", self.directory.display()))?;
        }
        std::fs::create_dir_all(self.directory)?;
        let at = |name: &str| self.directory.join(name);
        self.disks()?;
        std::fs::write(at("initramfs"), self.initramfs).context("write the initramfs")?;
        let log = std::fs::File::create(at("emulator.log")).context("create the emulator's log")?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(self.arguments()).current_dir(self.directory);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut emulator = Emulator(command.spawn().context("start qemu-system-x86_64")?);
        let begin = Instant::now();
        let mut heartbeat = Heartbeat::start();
        let status = loop {
            if let Some(status) = emulator.0.try_wait()? {
                break Some(status);
            }
            if begin.elapsed() > limit {
                break None;
            }
            heartbeat.beat(&super::report::last_step(&answers(&at(ANSWERS))));
            std::thread::sleep(Duration::from_millis(100));
        };
        drop(emulator);
        let time = heartbeat.stop();
        if status.is_some_and(|status| !status.success()) {
            let said = std::fs::read_to_string(at("emulator.log")).unwrap_or_default();
            bail!("the emulator failed: {}", said.trim());
        }
        // What is left behind otherwise costs disk space only.
        for file in DISKS.into_iter().chain(["initramfs"]) {
            let _ = std::fs::remove_file(at(file));
        }
        let lines = answers(&at(ANSWERS));
        Ok(Ended { lines, time, timed_out: status.is_none(), console: at(CONSOLE) })
    }

    fn disks(&self) -> Result<()> {
        for disk in DISKS {
            let path = self.directory.join(disk);
            std::fs::File::create(&path)
                .and_then(|file| file.set_len(DISK_BYTES))
                .with_context(|| format!("create {}", path.display()))?;
        }
        let [ext4, xfs, _] = DISKS.map(|disk| self.directory.join(disk));
        let make = |program: &str| run::which(program).with_context(|| format!("there is no {program} here"));
        let mut command = Command::new(make("mkfs.ext4")?);
        run::output(command.args(["-q", "-F", "-J", "size=16", "-E", LAZY]).arg(ext4))?;
        // Features that older kernels can't mount are left out.
        let mut command = Command::new(make("mkfs.xfs")?);
        run::output(command.args(["-q", "-f", "-m", "bigtime=0,inobtcount=0,reflink=0"]).arg(xfs))?;
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let memory = format!("{}M", self.memory_mib);
        let mut words: Vec<String> = ["-accel", self.accelerator, "-cpu", "max", "-smp", "1", "-m", &memory]
            .into_iter()
            .chain(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .chain(["-initrd", "initramfs", "-append", KERNEL_LINE, "-kernel"])
            .map(str::to_owned)
            .collect();
        words.push(self.image.display().to_string());
        for port in [CONSOLE, ANSWERS] {
            words.extend(["-serial".to_owned(), format!("file:{port}")]);
        }
        for disk in DISKS {
            // What the machine flushes need not reach the host's disk: it lives in memory as far as that goes.
            words.extend([
                "-drive".to_owned(),
                format!("file={disk},format=raw,if=virtio,cache=unsafe,discard=unmap"),
            ]);
        }
        words
    }
}

const DISKS: [&str; 3] = ["ext4.img", "xfs.img", "scratch.img"];

/// A panic ends the machine at once, and so the emulator.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 nokaslr mitigations=off loglevel=6 random.trust_cpu=on";

fn answers(file: &Path) -> Vec<Line> {
    let text = std::fs::read(file).unwrap_or_default();
    super::report::parse(&String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_two_ports_and_three_disks_and_ends_with_a_panic() {
        let machine = Machine {
            image: Path::new("/k/vmlinuz"),
            initramfs: &[],
            directory: Path::new("/x"),
            accelerator: "tcg",
            memory_mib: 1024,
        };
        let words = machine.arguments().join(" ");
        assert!(words.contains("-accel tcg") && words.contains("-m 1024M") && words.contains("-no-reboot"));
        assert!(words.contains("-kernel /k/vmlinuz") && words.contains("panic=-1"));
        assert!(words.contains("-serial file:console.log -serial file:answers.jsonl"));
        assert_eq!(words.matches("if=virtio").count(), 3);
    }
}
