//! systemd: the units are sound and hardened, and what they start runs within what they allow.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use etcdmon_tests::api::{Api, Blind, from_now, losses};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::load::{Load, Plan};
use etcdmon_tests::node::{Daemon, data_dirs};
use etcdmon_tests::place::{Place, free_port};
use etcdmon_tests::root::Root;
use etcdmon_tests::stand::VISIBLE_LIMIT;
use etcdmon_tests::suite::{run, skip_without_root};
use etcdmon_tests::{process, tools, wait};
use serde_json::json;

/// Where units say that programs are.
const INSTALLED: &str = "/usr/local/bin/";

/// A user that nobody else is.
const USER: u32 = 61_184;

/// Most exposure by `systemd-analyze security`, times ten: root with five capabilities can't be much lower.
const AGENT_EXPOSURE: u32 = 34;
const AGGREGATOR_EXPOSURE: u32 = 15;

/// Longest time for a state to be told.
const LIMIT: Duration = Duration::from_secs(30);

/// A unit file.
struct Unit {
    path: PathBuf,
    text: String,
}

impl Unit {
    fn of(program: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/systemd/{program}.service"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, text })
    }

    /// All values of a key, blanks between them.
    fn words(&self, key: &str) -> Vec<&str> {
        let values = self.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.flat_map(str::split_ascii_whitespace).collect()
    }

    /// What drops everything that the unit does not grant.
    fn setpriv(&self) -> Vec<String> {
        let mut capabilities = "-all".to_owned();
        for capability in self.words("CapabilityBoundingSet") {
            capabilities.push_str(&format!(",+{}", capability.trim_start_matches("CAP_").to_lowercase()));
        }
        let mut words = vec!["/usr/bin/setpriv".to_owned(), format!("--bounding-set={capabilities}")];
        words.extend(["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"].map(str::to_owned));
        if !self.words("User").is_empty() {
            words.extend([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
        }
        words
    }

    fn state(&self) -> PathBuf {
        Path::new("/var/lib").join(self.words("StateDirectory").concat())
    }
}

/// T6, S13: no key that systemd does not know, no dependency that can't be, and an exposure that is stated.
#[test]
fn the_units_verify_and_are_hardened() {
    if tools::system("systemd-analyze").is_err() {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    run(async |place| {
        for (program, exposure) in
            [("etcd-monitor-agent", AGENT_EXPOSURE), ("etcd-monitor-aggregator", AGGREGATOR_EXPOSURE)]
        {
            let unit = Unit::of(program)?;
            let score = process::run(
                Command::new("systemd-analyze")
                    .args(["security", "--offline=true", "--no-pager", &format!("--threshold={exposure}")])
                    .arg(&unit.path),
            )?;
            println!("{}", score.lines().last().unwrap_or_default());
            // Verification looks for the program: here it is where it was built.
            let program_here = tools::own(program)?;
            let built = program_here.parent().context("a program is in a directory")?;
            let copy = place.path().join(format!("{program}.service"));
            fs::write(&copy, unit.text.replace(INSTALLED, &format!("{}/", built.display())))?;
            let output = Command::new("systemd-analyze").arg("verify").arg(&copy).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            let about_it: Vec<&str> = said.lines().filter(|line| line.contains(program)).collect();
            ensure!(about_it.is_empty(), "systemd-analyze verify: {about_it:?}");
        }
        Ok(())
    });
}

/// A supervisor's end of the notification protocol.
struct Supervisor {
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    fn listen(path: PathBuf) -> Result<Self> {
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        // Ends with the test program.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]);
                notes.lock().unwrap_or_else(PoisonError::into_inner).extend(text.lines().map(str::to_owned));
            }
        });
        Ok(Self { path, heard })
    }

    /// Waits until it has heard this since it was last asked for anything.
    async fn hears(&self, state: &str) -> Result<()> {
        wait::until(&format!("the supervisor to hear {state}"), LIMIT, async || {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let position = heard.iter().position(|line| line == state);
            Ok(position.map(|position| drop(heard.drain(..=position))))
        })
        .await
    }
}

/// A program as its unit starts it, in a root directory with nothing else in it.
struct Service {
    supervisor: Supervisor,
    daemon: Daemon,
}

impl Service {
    fn prepare(place: &Place, program: &str, settings: &str, library: Option<&Path>) -> Result<Self> {
        let unit = Unit::of(program)?;
        let run = place.directory(&format!("run-{program}"))?;
        fs::set_permissions(&run, PermissionsExt::from_mode(0o777))?;
        let root = Root::new(place, program, &[tools::own(program)?], run.clone())?;
        if let Some(library) = library {
            root.install_needs_of(library)?;
        }
        let user = if unit.words("User").is_empty() { 0 } else { USER };
        root.state_directory(&unit.state(), user)?;
        let start = unit.words("ExecStart");
        let config = start.last().context("ExecStart names the settings")?;
        fs::write(root.inside(Path::new(config)), settings)?;
        let mut command = unit.setpriv();
        command.extend(start.iter().map(|word| (*word).to_owned()));
        let supervisor = Supervisor::listen(run.join("notify"))?;
        let daemon = Daemon::new(place, program, program)?
            .through(root.launcher(library, &command))
            .ready_file(run.join("ready"))
            .env("NOTIFY_SOCKET", supervisor.path.display().to_string())
            .env("WATCHDOG_USEC", "1500000");
        Ok(Self { supervisor, daemon })
    }

    async fn start(&mut self) -> Result<()> {
        self.daemon.start().await?;
        self.supervisor.hears("READY=1").await
    }

    async fn stop(&mut self) -> Result<()> {
        self.daemon.terminate()?;
        self.daemon.check_never_panicked()?;
        self.supervisor.hears("STOPPING=1").await
    }
}

/// T6, S13: in a clean root, with the unit's user, capabilities and command line alone, all of it works; and a restart, as
/// an upgrade makes it, is blind only while no agent runs.
#[test]
fn their_command_lines_run_in_a_clean_root() {
    if skip_without_root("probes, mounts and other users") {
        return;
    }
    run(async |place| {
        let since = from_now();
        let [api, ingest, admin] =
            [free_port()?, free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
        let library = tools::engine_library()?;
        let settings = format!("[listen]\napi = \"{api}\"\ningest = \"{ingest}\"\n");
        let mut aggregator = Service::prepare(&place, "etcd-monitor-aggregator", &settings, Some(&library))?;
        aggregator.start().await?;
        aggregator.supervisor.hears("WATCHDOG=1").await?;
        let cluster = Cluster::builder("unit").members(1).start(&place).await?;
        let load = Load::start(&cluster, &Plan { rate: Some(100), ..Plan::default() })?;
        let settings = format!(
            "[aggregator]\nurl = \"http://{ingest}\"\n[listen]\nadmin = \"{admin}\"\n[discovery]\nonly-data-dir = {:?}\n",
            data_dirs(&cluster)
        );
        let mut agent = Service::prepare(&place, "etcd-monitor-agent", &settings, None)?;
        agent.start().await?;
        agent.supervisor.hears("WATCHDOG=1").await?;
        let api = Api::new(&format!("http://{api}"))?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        wait::until("syncs measured in the kernel to be stored", VISIBLE_LIMIT, async || {
            Ok((api.stored(&id, since, &["wal"]).await? > 0).then_some(()))
        })
        .await?;
        let agents = api.agents().await?;
        ensure!(agents.iter().all(|agent| agent["degraded"] == json!([])), "degraded: {agents:?}");

        for service in [&mut agent, &mut aggregator] {
            service.daemon.process()?.signal(libc::SIGHUP)?;
            service.daemon.wait_output(&["settings unchanged"], LIMIT).await?;
            service.daemon.check_healthy()?;
        }

        let blind = async || Ok::<_, anyhow::Error>(losses(&api.ledger(&id, since).await?).1);
        let stopped = SystemTime::now();
        agent.stop().await?;
        agent.start().await?;
        let told = wait::until("the restart to be told", VISIBLE_LIMIT, async || {
            let told: Vec<Blind> = blind().await?.into_iter().filter(|one| one.reason != "attach").collect();
            Ok((!told.is_empty()).then_some(told))
        })
        .await?;
        let started = SystemTime::now();
        for stretch in &told {
            let (from, to) = (SystemTime::from(stretch.from), SystemTime::from(stretch.to));
            println!("blind for {:?} over a restart", to.duration_since(from).unwrap_or_default());
            // What was seen is kept by whole seconds: the one under way at the order to end may be in the stretch.
            ensure!(from >= stopped - Duration::from_secs(1) && to <= started, "{stretch:?}");
        }
        load.pause().await?;
        agent.stop().await?;
        aggregator.stop().await
    });
}
