//! What the person at the terminal sees: colour only on a terminal and without `NO_COLOR`, seconds on what took long.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// True where colour and redrawn lines are welcome.
pub fn on_terminal() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stdout().is_terminal()
    })
}

fn paint(code: &str, text: &str) -> String {
    if on_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A heading: what is done now.
pub fn step(text: &str) {
    println!("{} {text}", paint("1;36", "==>"));
}

/// A remark below a heading.
pub fn note(text: &str) {
    println!("    {text}");
}

/// Something is missing, the rest goes on.
pub fn warn(text: &str) {
    println!("{} {text}", paint("1;33", "  !"));
}

/// The task failed.
pub fn fail(text: &str) {
    eprintln!("{} {text}", paint("1;31", "error:"));
}

/// A verdict in its colour: green, yellow or red.
pub fn verdict(word: &str) -> String {
    let code = match word {
        "ok" => "32",
        "skipped" => "33",
        _ => "31",
    };
    paint(code, word)
}

/// Seconds with one digit, or minutes and seconds.
pub fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole < 100 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// Tells about every `period` how long something has been going on; redraws one line on a terminal.
pub struct Heartbeat {
    started: Instant,
    told: Instant,
    drawn: bool,
}

impl Heartbeat {
    /// Starts counting now.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { started: now, told: now, drawn: false }
    }

    /// Says `detail` when its time has come.
    pub fn beat(&mut self, detail: &str) {
        let period = if on_terminal() { Duration::from_secs(1) } else { Duration::from_secs(15) };
        if self.told.elapsed() < period {
            return;
        }
        self.told = Instant::now();
        let elapsed = seconds(self.started.elapsed());
        if on_terminal() {
            use std::io::Write;
            print!("\r\x1b[K    … {elapsed} {detail}");
            // A lost progress line harms nobody.
            let _ = std::io::stdout().flush();
            self.drawn = true;
        } else {
            note(&format!("… {elapsed} {detail}"));
        }
    }

    /// Clears the redrawn line and returns the time since the start.
    pub fn stop(self) -> Duration {
        if self.drawn {
            print!("\r\x1b[K");
        }
        self.started.elapsed()
    }
}
