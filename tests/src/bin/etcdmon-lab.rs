//! `etcdmon-lab`: the product on a real cluster to look at or as a proof, what the agent costs, and how often it is right.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use etcdmon_tests::etcd::Cluster;
use etcdmon_tests::faults::actor::Act;
use etcdmon_tests::{bench, faults, simulate, up};

#[derive(Parser)]
#[command(name = "etcdmon-lab", about = "Real etcd clusters, faults and oracles for etcd-monitor")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a 3-member etcd with a small load, an agent and an aggregator, until Ctrl-C
    Up {
        /// Prove that syncs are stored and that a slow disk pages, then end
        #[arg(long)]
        check: bool,
        /// Watch this cluster instead of starting one; no load is put on it
        #[arg(long, value_delimiter = ',', value_name = "URL")]
        endpoints: Vec<String>,
        /// Authority that signed that cluster's certificates, for https
        #[arg(long, value_name = "FILE", requires_all = ["endpoints", "cert", "key"])]
        cacert: Option<PathBuf>,
        /// Client certificate for that cluster
        #[arg(long, value_name = "FILE", requires = "cacert")]
        cert: Option<PathBuf>,
        /// Key of that certificate
        #[arg(long, value_name = "FILE", requires = "cacert")]
        key: Option<PathBuf>,
        /// No load on the cluster that is started
        #[arg(long)]
        no_load: bool,
    },
    /// Starts only an etcd cluster with a load, until Ctrl-C: to try things on by hand
    Cluster {
        /// Number of members
        #[arg(long, default_value_t = 3)]
        members: usize,
        /// Version of etcd, one of those that are installed
        #[arg(long = "etcd")]
        version: Option<String>,
        /// TLS on all URLs
        #[arg(long)]
        tls: bool,
        /// Puts a second
        #[arg(long, default_value_t = 40)]
        rate: u32,
    },
    /// Sends what many agents would send, then checks that all of it is stored once
    Simulate {
        /// Agents, each with one member
        #[arg(long, default_value_t = 100)]
        agents: usize,
        /// Series of each agent, sampled once a second
        #[arg(long, default_value_t = 1_300)]
        series: u32,
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Send to a running aggregator instead of one of our own: its address for agents
        #[arg(long, requires = "api")]
        ingest: Option<String>,
        /// Address of that aggregator's API
        #[arg(long, requires = "ingest")]
        api: Option<String>,
    },
    /// Injects faults and scores what the product says of them
    Faults {
        /// These classes only (repeatable, or separated by commas), or `recovery`
        #[arg(long, value_delimiter = ',', value_name = "NAME")]
        only: Vec<String>,
        /// Runs of each class
        #[arg(long, default_value_t = 20)]
        runs: u32,
        /// Minutes of calm, and of heavy load; 0 = neither
        #[arg(long, default_value_t = 30)]
        stretch_minutes: u64,
        /// A line of JSON for each run; what is in it is not done again
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// What everything random follows from
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Commit of what is tried: runs of another one in the file don't count
        #[arg(long, default_value = "unknown")]
        commit: String,
    },
    /// A process that does harm
    #[command(hide = true)]
    Act {
        #[command(subcommand)]
        act: Act,
    },
    /// Measures; the last line is one JSON object
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// What the agent costs etcd and the host
    Overhead {
        /// This part only (repeatable); all by default
        #[arg(long = "part", value_name = "NAME")]
        parts: Vec<bench::Part>,
        /// Slots of each part, about half of them with probes, in place of its own number
        #[arg(long)]
        slots: Option<u32>,
    },
    /// A process that syncs
    #[command(hide = true)]
    Sync {
        #[arg(long)]
        data_dir: PathBuf,
        #[arg(long)]
        threads: u32,
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        seconds: u64,
        /// For whoever takes it for an etcd
        #[arg(long)]
        listen_client_urls: Option<String>,
    },
    /// A process that answers each byte
    #[command(hide = true)]
    Echo,
    /// What rows take on disk in one layout and another
    Storage {
        /// Seconds that a real member makes rows, under 1,000 puts a second
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Many simulated agents for long: memory, parts, CPU; and what a member takes on disk in a day
    Soak {
        /// Minutes that memory is watched; 0 = only the real member
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Minutes before that: the aggregator keeps ten minutes of live summaries, and grows until it has them
        #[arg(long, default_value_t = 12)]
        warm_up_minutes: u64,
        /// Simulated agents, 1,300 samples a second each
        #[arg(long, default_value_t = 100)]
        agents: usize,
        /// Seconds that one real member is under 1,000 puts a second; 0 = only the simulated agents
        #[arg(long, default_value_t = 150)]
        member_seconds: u64,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Act { act } = &cli.command {
        return ended(act.run());
    }
    match &cli.command {
        Command::Bench { bench: Bench::Echo } => return ended(bench::load::echo()),
        Command::Bench { bench: Bench::Sync { data_dir, threads, rate, seconds, .. } } => {
            let time = Duration::from_secs(*seconds);
            return ended(bench::load::sync_all_the_time(data_dir, *threads, *rate, time));
        }
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up { check, endpoints, cacert, cert, key, no_load } => {
                let tls = cacert.zip(cert).zip(key).map(|((authority, cert), key)| up::Tls {
                    authority,
                    cert,
                    key,
                });
                up::up(&up::Options { check, endpoints, tls, no_load }).await
            }
            Command::Cluster { members, version, tls, rate } => {
                let builder = Cluster::builder("etcd").members(members).tls(tls);
                up::cluster(version.iter().fold(builder, |builder, version| builder.version(version)), rate)
                    .await
            }
            Command::Simulate { agents, series, seconds, ingest, api } => {
                let plan = simulate::Plan { agents, series, ..simulate::Plan::default() };
                let time = Duration::from_secs(seconds);
                simulate::command::run(simulate::command::Options { plan, time, target: ingest.zip(api) })
                    .await
            }
            Command::Faults { only, runs, stretch_minutes, json, seed, commit } => {
                faults::faults(&faults::Options { only, runs, stretch_minutes, json, seed, commit }).await
            }
            Command::Act { act } => act.run(),
            Command::Bench { bench: Bench::Overhead { parts, slots } } => {
                bench::overhead(&parts, slots).await
            }
            Command::Bench { bench: Bench::Sync { .. } | Bench::Echo } => Ok(()),
            Command::Bench { bench: Bench::Storage { seconds } } => {
                bench::storage::storage(Duration::from_secs(seconds)).await
            }
            Command::Bench { bench: Bench::Soak { minutes, warm_up_minutes, agents, member_seconds } } => {
                let options = simulate::soak::Options {
                    agents,
                    time: Duration::from_secs(minutes * 60),
                    warm_up: Duration::from_secs(warm_up_minutes * 60),
                    member_time: Duration::from_secs(member_seconds),
                };
                simulate::soak::run(&options).await
            }
        }
    });
    ended(outcome)
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
