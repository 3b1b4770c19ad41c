//! wip
use etcdmon_aggregator::engine;
fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|a| a == "engine") {
        let args = engine::child::parse_arguments(args).unwrap();
        if let Err(e) = engine::child::run(&args) {
            eprintln!("{}", etcdmon_service::logging::ErrorChain(&e));
            std::process::exit(1);
        }
    }
}
