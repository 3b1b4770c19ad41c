//! `etcd-monitor-agent`: flags → config → logging → build → run → drain → exit code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};
use etcdmon_agent::Agent;
use etcdmon_agent::config::{Config, SCHEMA};
use etcdmon_agent::ebpf;
use etcdmon_agent::priority;
use etcdmon_agent::probe::Dumps;
use etcdmon_agent::probe::flight::Trigger;
use etcdmon_agent::reload::{Changed, apply};
use etcdmon_service::{logging, process, shutdown, systemd};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code for settings that can't be used, as in sysexits.h.
const EX_CONFIG: u8 = 78;

fn command() -> Command {
    let ready_file = Arg::new("ready-file")
        .long("ready-file")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Write one line of JSON here once the agent runs: {\"admin\": address, \"pid\": number}");
    let offsets = Command::new(ebpf::OFFSETS_SUBCOMMAND)
        .hide(true)
        .arg(Arg::new("file").default_value(ebpf::KERNEL_BTF).value_parser(value_parser!(PathBuf)));
    let command = Command::new("etcd-monitor-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Watches the etcd processes of this node and reports to the aggregator")
        .after_help("Settings come from defaults, then --config FILE, then the environment, then flags. Needs root for\nthe kernel probes; without it everything else goes on, and the agent says what is missing.")
        .arg(ready_file)
        .subcommand(Command::new("check-config").about("Check the settings, print them, and exit"))
        .subcommand(offsets);
    SCHEMA.add_flags(command)
}

fn main() -> ExitCode {
    let flags = command().get_matches();
    let outcome = match flags.subcommand() {
        Some((ebpf::OFFSETS_SUBCOMMAND, flags)) => print_offsets(flags),
        Some(("check-config", flags)) => return check_config(flags),
        _ => match Config::load(&flags, std::env::vars()) {
            Ok(config) => run(config, &flags),
            Err(faults) => {
                eprintln!("etcd-monitor-agent: {faults}");
                return ExitCode::from(EX_CONFIG);
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("etcd-monitor-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_offsets(flags: &ArgMatches) -> anyhow::Result<()> {
    let default = PathBuf::from(ebpf::KERNEL_BTF);
    let file: &Path = flags.get_one::<PathBuf>("file").unwrap_or(&default);
    Ok(ebpf::print_offsets(file)?)
}

fn check_config(flags: &ArgMatches) -> ExitCode {
    match Config::load(flags, std::env::vars()) {
        Ok(config) => {
            for (key, text) in config.effective {
                println!("{key} = {text}");
            }
            ExitCode::SUCCESS
        }
        Err(faults) => {
            eprintln!("etcd-monitor-agent: {faults}");
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn run(config: Config, flags: &ArgMatches) -> anyhow::Result<()> {
    logging::init(config.log_format, &config.log_filter).context("log.filter")?;
    process::install_tls_provider();
    process::count_panics();
    // Before there is another thread: all of them inherit it.
    priority::raise(priority::REST);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    runtime.block_on(async {
        let stop = shutdown::token().context("install signal handlers")?;
        let agent = Agent::build(config.clone()).await?;
        let admin = agent.admin_address();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %admin, aggregator = config.aggregator.url, "agent runs");
        if let Some(path) = flags.get_one::<PathBuf>("ready-file") {
            let content = serde_json::json!({ "admin": admin.to_string(), "pid": std::process::id() });
            process::write_ready_file(path, &content).with_context(|| format!("write {}", path.display()))?;
        }
        systemd::ready(&format!("reports to {}", config.aggregator.url));
        tokio::spawn(dump_on_signal(agent.dumps()));
        tokio::spawn(reload_on_hangup(config, flags.clone(), agent.reload()));
        agent.run(stop).await;
        tracing::info!("agent ended");
        Ok(())
    })
}

/// SIGUSR1: the flight recorder keeps its last minute.
async fn dump_on_signal(dumps: Dumps) {
    let Ok(mut signals) = signal(SignalKind::user_defined1()) else { return };
    while signals.recv().await.is_some() {
        if !dumps.ask(None, Trigger::Asked) {
            tracing::warn!("the probes are too busy for a dump of the flight recorder");
        }
    }
}

/// SIGHUP: reads the settings again, applies what can be applied, and names what needs a restart. Certificates need no
/// reload, they are read with every connection.
async fn reload_on_hangup(mut running: Config, flags: ArgMatches, agent: watch::Sender<Config>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        match Config::load(&flags, std::env::vars()) {
            Err(faults) => tracing::error!(%faults, "settings are faulty, the old ones stay in force"),
            Ok(new) => reload(&mut running, new, &agent),
        }
    }
}

fn reload(running: &mut Config, new: Config, agent: &watch::Sender<Config>) {
    let Changed { applied, needs_restart } = Changed::between(&running.effective, &new.effective);
    if applied.is_empty() && needs_restart.is_empty() {
        tracing::info!("settings unchanged");
        return;
    }
    if let Err(error) = logging::set_filter(&new.log_filter) {
        tracing::error!(%error, "log.filter is faulty, the old settings stay in force");
        return;
    }
    if !needs_restart.is_empty() {
        tracing::warn!(settings = ?needs_restart, "settings changed that need a restart");
    }
    if !applied.is_empty() {
        apply(running, new);
        agent.send_replace(running.clone());
        tracing::info!(settings = ?applied, "settings applied");
    }
}
