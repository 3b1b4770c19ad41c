//! Thousands of syncs a second by a process that passes for an etcd, on a loop device over memory: none may be missed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::figures::Figure;
use super::others::getppid_ratio;
use super::stage::Watch;
use crate::disk::{Disk, Medium};
use crate::place::{Place, free_port};
use crate::wait;

/// How long it syncs.
const TIME: Duration = Duration::from_secs(20);

/// Syncs a second that it tries for.
const RATE: u32 = 8_000;

/// Threads; each waits for its own syncs.
const THREADS: u32 = 4;

/// For the agent to find it.
const FOUND_WITHIN: Duration = Duration::from_secs(20);

/// A filesystem in memory below a directory of the place, which unmounts it.
fn in_memory(place: &Place, name: &str) -> Result<PathBuf> {
    let directory = place.directory(name)?;
    let target = std::ffi::CString::new(directory.display().to_string())?;
    let (kind, options) = (c"tmpfs", c"size=1200m");
    // SAFETY: C strings that live until after the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    let refused = std::io::Error::last_os_error;
    ensure!(result == 0, "mount a filesystem in memory at {}: {}", directory.display(), refused());
    Ok(directory)
}

/// The process that syncs. The agent takes it for an etcd by its name.
struct Generator {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Generator {
    /// Starts it; it waits for the word to begin.
    fn start(place: &Place, data_dir: &Path) -> Result<Self> {
        let program = place.path().join("etcd");
        if !program.exists() {
            std::os::unix::fs::symlink(std::env::current_exe()?, &program)?;
        }
        let mut child = Command::new(&program)
            .args(["bench", "sync", "--threads", &THREADS.to_string(), "--rate", &RATE.to_string()])
            .args(["--seconds", &TIME.as_secs().to_string(), "--data-dir"])
            .arg(data_dir)
            // Nobody listens there: it can't be asked anything.
            .arg(format!("--listen-client-urls=http://127.0.0.1:{}", free_port()?))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process that syncs")?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("both are pipes")?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Has it sync, and waits for the end of that: how many syncs it made, and how long that took.
    fn run(&mut self) -> Result<(u64, Duration)> {
        writeln!(self.input, "go").context("the process that syncs has ended")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let (made, micros) = line.trim().split_once(' ').context("it ended without a word")?;
        Ok((made.parse()?, Duration::from_micros(micros.parse()?)))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What the agent says of the process: hook and syncs.
fn seen(report: &Value, pid: u32) -> Option<(String, u64)> {
    let watch = report["watches"].as_array()?.iter().find(|watch| watch["pid"] == pid)?;
    Some((watch["hook"].as_str()?.to_owned(), watch["syncs"].as_u64()?))
}

pub(super) async fn measure(place: &Place, slots: u32) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, medium, hook) in [("ext4", Medium::Ext4, "filesystem"), ("xfs", Medium::Xfs, "syscall")] {
        figures.extend(on(place, name, medium, hook, slots).await.with_context(|| format!("on {name}"))?);
    }
    Ok(figures)
}

async fn on(place: &Place, name: &str, medium: Medium, hook: &str, slots: u32) -> Result<Vec<Figure>> {
    let disk = Disk::new(&in_memory(place, &format!("memory-{name}"))?, medium, false)?;
    let own = Place::new()?;
    let mut watch = Watch::start(&own, &[disk.path().to_owned()]).await?;
    let mut generator = Generator::start(place, disk.path())?;
    let pid = generator.child.id();
    let found = wait::until("the agent to watch the process that syncs", FOUND_WITHIN, async || {
        Ok(seen(&watch.report().await?, pid).map(|(hook, _)| hook))
    });
    let found = found.await?;
    ensure!(found == hook, "watched by hook {found}, not {hook}");
    let mut figures = Vec::new();
    if hook == "syscall" {
        println!("what the fallback hooks cost others: {slots} slots");
        figures.push(getppid_ratio(&watch, &format!("{name}_getppid_ratio"), slots).await?);
        watch.switch(true).await?;
    }
    let cpu = watch.agent_cpu()?;
    let (made, took) = tokio::task::block_in_place(|| generator.run())?;
    let cores = (watch.agent_cpu()? - cpu).as_secs_f64() / took.as_secs_f64();
    let rss = watch.agent_rss()?;
    let report = watch.report().await?;
    let (_, counted) = seen(&report, pid).context("no longer watched")?;
    println!("{name}: {made} syncs made in {took:?}, {counted} counted, lost: {}", report["lost"]);
    figures.extend([
        Figure::lower(format!("{name}_missed_syncs"), made.abs_diff(counted) as f64, "syncs").goal(0.0),
        Figure::lower(format!("{name}_syncs_per_second"), made as f64 / took.as_secs_f64(), "1/s")
            .better_high()
            .goal(5_000.0),
        Figure::lower(format!("{name}_agent_cpu"), cores, "cores").goal(0.05),
        Figure::lower(format!("{name}_agent_rss"), rss as f64, "bytes").goal(67_108_864.0),
    ]);
    Ok(figures)
}
