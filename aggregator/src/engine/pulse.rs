//! Whether a child still lives as it should: it answers a health query in time, keeps within its memory, and, while it
//! starts, gets on with it.
//!
//! The health query runs on a connection of its own in the child, beside the pool, and touches no table: inserts, merges and
//! questions may take as long as they like without being taken for a hang. Any answer counts, a refusal as well. Silence
//! counts only over several tries, so that a machine that stood still itself accuses nobody.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Path of the health query on the engine's endpoint.
pub const PATH: &str = "/health";

/// How often a child that answers is asked.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Pause after a try that failed at once.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A connection on loopback is there at once, or there is nobody to take it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Tries in a row without an answer before silence is a hang.
const LEAST_TRIES: u32 = 3;

/// Looks in a row at a child that takes too much memory before it must end.
const LEAST_LOOKS: u32 = 3;

/// How often memory and progress are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Memory beyond what queries may take together that a child may need for itself, at least, in bytes.
const OWN_BYTES: u64 = 256 << 20;

/// Asks a child whether it is there, without ever blocking the thread for long.
pub struct Pulse {
    address: SocketAddr,
    key: String,
    limit: Duration,
    under_way: Option<(TcpStream, Instant)>,
    next_at: Instant,
    silent_since: Option<Instant>,
    tries: u32,
}

impl Pulse {
    /// Of the child behind a port of loopback. `limit` is how long it may be silent.
    pub fn new(port: u16, key: &str, limit: Duration, now: Instant) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let next_at = now + ASK_EVERY;
        Self { address, key: key.to_owned(), limit, under_way: None, next_at, silent_since: None, tries: 0 }
    }

    /// Asks, or looks for an answer. How long the child has been silent, once that is too long.
    pub fn beat(&mut self, now: Instant) -> Option<Duration> {
        match self.under_way.take() {
            Some((mut stream, asked)) => match stream.read(&mut [0; 64]) {
                Ok(1..) => {
                    (self.silent_since, self.tries, self.next_at) = (None, 0, now + ASK_EVERY);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Several tries must fit into the limit.
                    if now.duration_since(asked) >= self.limit / (LEAST_TRIES + 1) {
                        self.failed(now, Duration::ZERO);
                    } else {
                        self.under_way = Some((stream, asked));
                    }
                }
                Ok(_) | Err(_) => self.failed(now, TRY_AGAIN),
            },
            None if now >= self.next_at => {
                self.silent_since.get_or_insert(now);
                match self.ask() {
                    Ok(stream) => self.under_way = Some((stream, now)),
                    Err(_) => self.failed(now, TRY_AGAIN),
                }
            }
            None => {}
        }
        let silent = now.duration_since(self.silent_since?);
        (self.tries >= LEAST_TRIES && silent >= self.limit).then_some(silent)
    }

    fn failed(&mut self, now: Instant, pause: Duration) {
        self.tries += 1;
        self.next_at = now + pause;
    }

    fn ask(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nonblocking(true)?;
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nhost: localhost\r\nx-clickhouse-key: {}\r\nconnection: close\r\n\r\n",
            self.key
        );
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }
}

/// Looks at how much memory a child takes.
pub struct Memory {
    limit_bytes: u64,
    over: u32,
    next_at: Instant,
    /// At the last look, in bytes.
    pub taken_bytes: u64,
}

impl Memory {
    /// Of a child whose queries may take so many bytes together. The engine keeps to that by itself; a quarter more,
    /// at least 256 MiB, is for what it does not count.
    pub fn new(query_bytes: u64, now: Instant) -> Self {
        let limit_bytes = query_bytes.saturating_add(OWN_BYTES.max(query_bytes / 4));
        Self { limit_bytes, over: 0, next_at: now, taken_bytes: 0 }
    }

    /// Looks, once a second. What it takes and might take, once that was too much several times in a row.
    pub fn look(&mut self, pid: u32, now: Instant) -> Option<(u64, u64)> {
        if now < self.next_at {
            return None;
        }
        self.next_at = now + LOOK_EVERY;
        self.judge(memory_bytes(pid)?)
    }

    fn judge(&mut self, taken: u64) -> Option<(u64, u64)> {
        self.taken_bytes = taken;
        self.over = if taken > self.limit_bytes { self.over + 1 } else { 0 };
        (self.over >= LEAST_LOOKS).then_some((taken, self.limit_bytes))
    }
}

/// Memory that is a process's own: pages of the library's file are the kernel's to take back.
fn memory_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    Some((kibibytes("RssAnon:")? + kibibytes("RssShmem:").unwrap_or(0)) << 10)
}

/// Watches a child that starts: opening a large store takes its time, and that is no fault as long as it works at it.
pub struct Progress {
    limit: Duration,
    began: Instant,
    /// Since when nothing moved.
    still_since: Instant,
    next_at: Instant,
    ticks: u64,
    /// Bytes that it has read.
    pub read_bytes: u64,
}

impl Progress {
    /// Of a child that begins now. `limit` is how long it may do nothing at all.
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, began: now, still_since: now, next_at: now, ticks: 0, read_bytes: 0 }
    }

    /// How long it takes so far.
    pub fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.began)
    }

    /// Looks, once a second. How long it has done nothing, once that is too long.
    pub fn look(&mut self, pid: u32, now: Instant) -> Option<Duration> {
        if now < self.next_at {
            return None;
        }
        // A look that comes late says that this process stood still, not the child.
        if now.duration_since(self.next_at) > self.limit / LEAST_TRIES {
            self.still_since = now;
        }
        self.next_at = now + LOOK_EVERY;
        self.judge(work(pid)?, now)
    }

    fn judge(&mut self, (ticks, read_bytes): (u64, u64), now: Instant) -> Option<Duration> {
        if (ticks, read_bytes) != (self.ticks, self.read_bytes) {
            (self.ticks, self.read_bytes, self.still_since) = (ticks, read_bytes, now);
        }
        let still = now.duration_since(self.still_since);
        (still >= self.limit).then_some(still)
    }
}

/// CPU time in the kernel's ticks, and bytes read.
fn work(pid: u32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: state is the first, utime the 12th, stime the 13th.
    let mut numbers =
        stat.rsplit(") ").next()?.split(' ').skip(11).map_while(|number| number.parse::<u64>().ok());
    let ticks = numbers.next()? + numbers.next()?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
    Some((ticks, read.unwrap_or(0)))
}

/// How often the kernel has killed a process because memory ran out.
pub fn kernel_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    /// Beats every 50 ms of a made-up clock, for so long.
    fn beats(
        pulse: &mut Pulse,
        now: &mut Instant,
        time: Duration,
        mut between: impl FnMut(),
    ) -> Option<Duration> {
        let end = *now + time;
        while *now < end {
            if let Some(silent) = pulse.beat(*now) {
                return Some(silent);
            }
            between();
            *now += Duration::from_millis(50);
        }
        None
    }

    #[test]
    fn a_child_that_takes_connections_and_never_answers_hangs() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut now = Instant::now();
        let mut pulse = Pulse::new(listener.local_addr().unwrap().port(), "key", LIMIT, now);
        let silent = beats(&mut pulse, &mut now, LIMIT * 3, || {}).expect("a hang");
        assert!(silent >= LIMIT && silent < LIMIT + Duration::from_secs(3), "{silent:?}");
    }

    #[test]
    fn any_answer_is_a_sign_of_life() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut now = Instant::now();
        let mut pulse = Pulse::new(listener.local_addr().unwrap().port(), "key", LIMIT, now);
        listener.set_nonblocking(true).unwrap();
        let answer = || {
            if let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 512];
                stream.set_nonblocking(false).unwrap();
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                assert!(request.starts_with("GET /health ") && request.contains("x-clickhouse-key: key"));
                stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\n\r\n").unwrap();
                // Until the other side has read it.
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        assert_eq!(beats(&mut pulse, &mut now, LIMIT * 3, answer), None);
    }

    #[test]
    fn a_keeper_that_stood_still_itself_accuses_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut now = Instant::now();
        let mut pulse = Pulse::new(listener.local_addr().unwrap().port(), "key", LIMIT, now);
        assert_eq!(beats(&mut pulse, &mut now, Duration::from_secs(3), || {}), None);
        now += LIMIT * 10;
        assert_eq!(pulse.beat(now), None, "one try is no proof");
        assert_eq!(beats(&mut pulse, &mut now, Duration::from_secs(1), || {}), None);
    }

    #[test]
    fn memory_must_be_too_much_several_times_in_a_row() {
        let mut memory = Memory::new(1 << 30, Instant::now());
        let limit = (1 << 30) + (256 << 20);
        assert_eq!(
            [limit + 1, limit + 1, limit, limit + 1, limit + 1].map(|taken| memory.judge(taken)),
            [None; 5]
        );
        assert_eq!(memory.judge(limit + 2), Some((limit + 2, limit)));
        assert!(memory_bytes(std::process::id()).unwrap() > 100 << 10);
    }

    #[test]
    fn a_start_may_take_as_long_as_it_likes_while_it_works() {
        let began = Instant::now();
        let mut progress = Progress::new(LIMIT, began);
        let at = |seconds| began + Duration::from_secs(seconds);
        for second in 1..1_000 {
            // A tick of the CPU, or some bytes, every seven seconds.
            assert_eq!(progress.judge((second / 14, second / 7), at(second)), None);
        }
        assert_eq!(progress.judge((71, 142), at(1_000)), None);
        assert!(progress.judge((71, 142), at(1_008)).is_some());
        let (ticks, read) = work(std::process::id()).unwrap();
        assert!(ticks < 1_000_000 && read > 0);
    }
}
