//! Where things are: the repository, its target directory, the tools directory of this machine, the cache of the person.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup;

/// The directories every task works with.
pub struct Place {
    /// Root of the repository.
    pub repo: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Where `setup` puts what it fetches: `ETCD_MONITOR_TOOLS`, else `${XDG_CACHE_HOME:-~/.cache}/etcd-monitor`.
    pub tools: PathBuf,
    /// `ETCD_MONITOR_CACHE`: files for machines without internet, looked into first.
    pub cache: Option<PathBuf>,
}

impl Place {
    /// Finds them from the environment.
    pub fn find() -> Result<Self> {
        // Set by `cargo run`; the compiled-in path serves a direct call of the binary.
        let manifest =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let repo = Path::new(&manifest).parent().context("xtask has no parent directory")?.to_owned();
        let directory = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let target = directory("CARGO_TARGET_DIR").map_or_else(|| repo.join("target"), |dir| repo.join(dir));
        let tools = match directory("ETCD_MONITOR_TOOLS") {
            Some(dir) => std::path::absolute(dir)?,
            None => match directory("XDG_CACHE_HOME") {
                Some(dir) => dir.join("etcd-monitor"),
                None => directory("HOME")
                    .context("no HOME: set ETCD_MONITOR_TOOLS to a directory for the tools")?
                    .join(".cache/etcd-monitor"),
            },
        };
        let cache = directory("ETCD_MONITOR_CACHE");
        if let Some(dir) = &cache
            && !dir.is_dir()
        {
            anyhow::bail!("ETCD_MONITOR_CACHE={} is no directory: mend or unset it", dir.display());
        }
        Ok(Self { repo, target, tools, cache })
    }

    /// The built kernel object.
    pub fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/etcd-monitor.bpf.o")
    }

    /// Logs of quiet steps.
    pub fn logs(&self) -> PathBuf {
        self.target.join("xtask/log")
    }

    /// A command that sees what `setup` brought: tools, engine library, kernel object, the etcd for `up`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.repo).env("ETCD_MONITOR_TOOLS", &self.tools);
        let library = setup::engine::library(self);
        if std::env::var_os("ETCD_MONITOR_LIBCHDB").is_none() && library.is_file() {
            command.env("ETCD_MONITOR_LIBCHDB", library);
        }
        // At its usual place the agent's build finds it by itself; a variable that comes and goes would rebuild the agent.
        if self.target != self.repo.join("target") && self.bpf_object().is_file() {
            command.env("ETCD_MONITOR_BPF_OBJECT", self.bpf_object());
        }
        if let Some(directory) = setup::etcd::for_up(self) {
            command.env("ETCD_MONITOR_ETCD_DIR", directory);
        }
        command
    }

    /// Cargo in the repository, with the toolchain that the repository names.
    pub fn cargo(&self) -> Command {
        self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }
}
