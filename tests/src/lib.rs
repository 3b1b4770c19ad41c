//! The lab: real etcd clusters on one machine, with load, faults, agents, an aggregator, a receiver, and oracles that
//! share no code with what they judge.
//!
//! Everything that is started is a guard: dropping it ends the process, unmounts the disk, detaches the loop device,
//! removes the cgroup. What a lab that was killed could not clean up, the next one does ([`place`]). Names carry the
//! prefix `etcdmon-lab-<pid>-`, so nobody else's things are touched.
//!
//! | module | what |
//! |---|---|
//! | [`place`] | the directory of one lab, and the janitor |
//! | [`disk`], [`slow`] | a member's own loop device; a file on FUSE with programmed delay beneath one |
//! | [`cgroup`], [`fault`] | CPU and block I/O groups; neighbours, hogs, stops, full disks, cut connections |
//! | [`etcd`], [`load`] | clusters of any version; bounded puts |
//! | [`node`], [`api`] | agents and the aggregator as their users run them |
//! | [`engine`] | what an aggregator that ended left in its tables |
//! | [`oracle`], [`metrics`] | `perf stat` and etcd's own counters |
//! | [`simulate`] | many agents from one process, whose every byte is known |
//! | [`prometheus`] | a real Prometheus that scrapes and takes OTLP |
//! | [`fill`] | a real database filled up to its quota, and recorded |
//! | [`receiver`] | a webhook receiver that can be down, hang or fail |
//! | [`root`] | a root directory with only what a program needs, and programs run inside |
//! | [`stand`], [`suite`] | all of it together; what every suite does around its tests |
//! | [`chaos`] | random faults, and the balance after each |
//! | [`faults`] | injected faults, and whether the product says what and who it was |
//! | [`up`], [`bench`] | what `etcdmon-lab` runs |

pub mod api;
pub mod authority;
pub mod bench;
pub mod cgroup;
pub mod chaos;
pub mod disk;
pub mod engine;
pub mod etcd;
pub mod fault;
pub mod faults;
pub mod fill;
pub mod load;
pub mod metrics;
pub mod node;
pub mod oracle;
pub mod place;
pub mod process;
pub mod prometheus;
pub mod receiver;
pub mod root;
pub mod simulate;
pub mod slow;
pub mod stand;
pub mod suite;
pub mod tools;
pub mod up;
pub mod wait;
