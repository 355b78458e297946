//! Parses the answers of HAProxy's runtime API.
//!
//! Every request ends with `show info`, so an answer is whole only if the process id is at its end. What cannot be
//! parsed is an error and never "nothing": a stream that is overlooked would be taken for one that has ended.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use thiserror::Error;

/// The id of a stream within its process: an address in memory, which a later stream can have again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer(u64);

/// The streams of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The process id, as the process itself sees it.
    pub process: u32,
    /// All streams, including those of the runtime API.
    pub streams: Vec<Listed>,
}

/// A stream in the list of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The id of the stream.
    pub pointer: Pointer,
    /// The front end of the client's connection; empty for HAProxy's own streams.
    pub frontend: Box<[u8]>,
    /// The client's address; `None` for a unix socket.
    pub source: Option<SocketAddr>,
    /// The least and the greatest possible age. HAProxy writes only the two largest units.
    pub age: (Duration, Duration),
}

/// The details of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The id of the stream.
    pub pointer: Pointer,
    /// The number of the stream (`txn.id32`).
    pub id: u32,
    /// The front end of the client's connection.
    pub frontend: Box<[u8]>,
    /// The client's address; `None` for a unix socket.
    pub source: Option<SocketAddr>,
    /// When the stream began.
    pub started: Quarter,
    /// Whether the stream is TCP, or HTTP that was upgraded.
    pub is_tunnel: bool,
    /// Whether the client's connection can carry several streams at once (HTTP/2).
    pub shares_connection: bool,
}

/// A time of day modulo a quarter of an hour, in microseconds. HAProxy writes local time, and the offsets of all time
/// zones are multiples of a quarter of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quarter(u64);

/// Why an answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// HAProxy refused, or answered something else.
    #[error("HAProxy answers: {}", .0.escape_ascii())]
    Answer(Vec<u8>),
    /// The end of the answer is missing.
    #[error("the answer of HAProxy has no end")]
    Cut,
    /// The master cannot reach the process, which is starting or has ended.
    #[error("HAProxy's master does not reach the process: it is starting, or has ended")]
    NoProcess,
}

impl Malformed {
    fn answer(line: &[u8]) -> Self {
        Self::Answer(line.iter().copied().take(120).collect())
    }
}

impl Quarter {
    const MICROS: u64 = 15 * 60 * 1_000_000;

    /// The quarter for microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros % Self::MICROS)
    }

    /// Microseconds since the quarter began.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The microseconds from another quarter to this one, less than half a quarter; negative if this one is earlier.
    #[must_use]
    pub fn after(self, other: Self) -> i64 {
        let ahead = (self.0 + Self::MICROS - other.0) % Self::MICROS;
        let ahead = i64::try_from(ahead).unwrap_or_default();
        let whole = i64::try_from(Self::MICROS).unwrap_or(i64::MAX);
        if ahead > whole / 2 { ahead - whole } else { ahead }
    }

    /// Parses `24/Nov/2026:19:20:36.812610`.
    fn read(text: &[u8]) -> Option<Self> {
        let mut parts = text.rsplit(|b| *b == b':');
        let (seconds, minutes) = (parts.next()?, number(parts.next()?)?);
        let dot = seconds.iter().position(|b| *b == b'.')?;
        let (whole, rest) = seconds.split_at(dot);
        let micros = number(rest.get(1..).filter(|digits| digits.len() == 6)?)?;
        let whole = number(whole)?;
        // A leap second counts as the first second of the next minute.
        let fits = minutes < 60 && whole <= 60;
        fits.then(|| Self::from_micros((minutes * 60 + whole) * 1_000_000 + micros))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Pointer {
    fn read(text: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(text.strip_prefix(b"0x")?).ok()?;
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|_| plain).map(Self)
    }
}

/// The ids of a master's processes, from the answer to `show proc`; `None` if a process answered and not a master.
///
/// # Errors
/// The answer is neither a list nor the refusal of a process.
pub fn processes(answer: &[u8]) -> Result<Option<Vec<u32>>, Malformed> {
    let mut lines = lines(answer).filter(|line| !line.is_empty());
    match lines.next() {
        Some(head) if head.starts_with(b"#<PID>") => {}
        // `show proc` is known to masters only.
        Some(other) if other.starts_with(b"Unknown command") => return Ok(None),
        Some(other) => return Err(Malformed::answer(other)),
        None => return Err(Malformed::Cut),
    }
    let mut ids = Vec::new();
    for line in lines.filter(|line| !line.starts_with(b"#")) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let id = words.next().and_then(number).and_then(|id| u32::try_from(id).ok());
        match (id, words.next()) {
            (Some(id), Some(b"worker")) => ids.push(id),
            (Some(_), Some(_)) => {}
            _ => return Err(Malformed::answer(line)),
        }
    }
    Ok(Some(ids))
}

/// The streams of a process, from the answer to `show sess`.
///
/// # Errors
/// The answer is not whole, or a line cannot be parsed.
pub fn list(answer: &[u8]) -> Result<List, Malformed> {
    let (streams, process) = body(answer)?;
    let streams = lines(streams).filter(|line| !line.is_empty());
    let read = |line| listed(line).ok_or_else(|| Malformed::answer(line));
    Ok(List { process, streams: streams.map(read).collect::<Result<_, _>>()? })
}

/// The details of streams, from the answers to `show sess 0x…`.
///
/// # Errors
/// The answer is not whole, or cannot be parsed.
pub fn details(answer: &[u8]) -> Result<Vec<Detail>, Malformed> {
    let (streams, _) = body(answer)?;
    let mut details = Vec::new();
    let mut block: Vec<&[u8]> = Vec::new();
    // The extra line ends the last block.
    for line in lines(streams).chain([&b"0x"[..]]) {
        if line.starts_with(b"0x") && !block.is_empty() {
            details
                .push(detail(&block).ok_or_else(|| {
                    Malformed::answer(block.first().copied().unwrap_or_default())
                })?);
            block.clear();
        }
        if line.starts_with(b"0x") || line.starts_with(b" ") {
            block.push(line);
        } else if !line.is_empty() && line != b"Session not found." {
            return Err(Malformed::answer(line));
        }
    }
    Ok(details)
}

/// The version that a process says it has, such as `3.2.18-1+deb13u1`, from the answer to `show info`.
///
/// # Errors
/// The answer is not whole, or has no version.
pub fn version(answer: &[u8]) -> Result<String, Malformed> {
    let (before, _) = body(answer)?;
    let info = answer.get(before.len()..).unwrap_or_default();
    let version =
        lines(info).find_map(|line| line.strip_prefix(b"Version: ")).ok_or(Malformed::Cut)?;
    Ok(version.iter().take(80).map(|byte| byte.escape_ascii().to_string()).collect())
}

/// For each of `count` commands `shutdown session`, whether it found its stream.
///
/// # Errors
/// The answer is not whole, or a command was not permitted.
pub fn shut(answer: &[u8], count: usize) -> Result<Vec<bool>, Malformed> {
    let (results, _) = body(answer)?;
    let mut shut = Vec::new();
    let mut lines = lines(results);
    while let Some(line) = lines.next() {
        if line.is_empty() {
            // HAProxy prints nothing but an empty line when the stream was closed.
            shut.push(true);
        } else if line.starts_with(b"No such session") {
            shut.push(false);
            // An empty line follows each message.
            lines.next();
        } else {
            return Err(Malformed::answer(line));
        }
    }
    // The empty line before the end is the answer of the last command.
    if shut.len() == count { Ok(shut) } else { Err(Malformed::Cut) }
}

/// The answer of a master that cannot reach the process. It ignores the rest of the line.
const NO_PROCESS: &[u8] = b"Can't find the target PID";

/// Whether the answer is complete: every command was answered, or the master ignored the rest. A master keeps the
/// connection open, so this is the only sign of the end.
#[must_use]
pub fn is_at_end(answer: &[u8]) -> bool {
    let end = last_part(answer);
    if !end.ends_with(b"\n\n") {
        return lacks_process(end);
    }
    answer.starts_with(b"#<PID>") || body(end).is_ok()
}

/// The last part of an answer. A long answer arrives in many pieces, and searching all of it after each would be
/// quadratic.
fn last_part(answer: &[u8]) -> &[u8] {
    const MOST: usize = 32 * 1024;
    answer.get(answer.len().saturating_sub(MOST)..).unwrap_or(answer)
}

/// Whether the last line says that the master cannot reach the process.
fn lacks_process(answer: &[u8]) -> bool {
    lines(last_part(answer)).last().is_some_and(|line| line.starts_with(NO_PROCESS))
}

/// Checks that an answer has its end.
///
/// # Errors
/// The end is missing.
pub fn is_whole(answer: &[u8]) -> Result<(), Malformed> {
    body(answer).map(|_| ())
}

/// Checks that a variable of the process has a value, by the answer to `get var`.
///
/// # Errors
/// The answer is not whole, or the value is another one.
pub fn has_value(answer: &[u8], name: &str, value: &str) -> Result<(), Malformed> {
    let (before, _) = body(answer)?;
    let want = format!("{name}: type=str value=<{value}>");
    let mut said = lines(before).filter(|line| !line.is_empty());
    match (said.next(), said.next()) {
        (Some(line), None) if line == want.as_bytes() => Ok(()),
        (Some(line), _) => Err(Malformed::answer(line)),
        (None, _) => Err(Malformed::Cut),
    }
}

/// What stands before the answer to `show info`, and the process id in that answer.
fn body(answer: &[u8]) -> Result<(&[u8], u32), Malformed> {
    let mark = b"Name: ";
    // Only at the start of a line: a stream's line can contain the text too.
    let starts = |at: &usize| *at == 0 || answer.get(at - 1) == Some(&b'\n');
    let info = memchr::memmem::rfind_iter(answer, mark).find(starts);
    let Some(info) = info else {
        if lacks_process(answer) {
            return Err(Malformed::NoProcess);
        }
        let first = lines(answer).find(|line| !line.is_empty());
        let refused = first.filter(|line| !line.starts_with(b"0x"));
        return Err(refused.map_or(Malformed::Cut, Malformed::answer));
    };
    let (before, info) = answer.split_at(info);
    let id = lines(info).find_map(|line| line.strip_prefix(b"Pid: ")).and_then(number);
    let id = id.and_then(|id| u32::try_from(id).ok()).ok_or(Malformed::Cut)?;
    Ok((before, id))
}

/// Parses a line of `show sess`. Only the id is required: HAProxy's own streams have no front end, and a missing field
/// does not make it another stream.
fn listed(line: &[u8]) -> Option<Listed> {
    let mut words = line.split(|b| *b == b' ');
    let pointer = Pointer::read(words.next()?.strip_suffix(b":")?)?;
    let (mut source, mut frontend) = (None, &b""[..]);
    let mut age = (Duration::ZERO, Duration::MAX);
    for word in words {
        if let Some(text) = word.strip_prefix(b"src=") {
            source = address(text);
        } else if let Some(name) = word.strip_prefix(b"fe=") {
            frontend = name;
        } else if let Some(text) = word.strip_prefix(b"age=") {
            age = duration(text).unwrap_or(age);
            break;
        }
    }
    Some(Listed { pointer, frontend: frontend.into(), source, age })
}

fn detail(block: &[&[u8]]) -> Option<Detail> {
    let mut head = block.first()?.split(|b| *b == b' ');
    let pointer = Pointer::read(head.next()?.strip_suffix(b":")?)?;
    let started = head.next()?.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (mut id, mut source) = (None, None);
    for word in head {
        if let Some(text) = word.strip_prefix(b"id=") {
            id = id.or(u32::try_from(number(text)?).ok());
        } else if let Some(text) = word.strip_prefix(b"source=") {
            source = source.or(address(text));
        }
    }
    let find = |key: &[u8]| block.iter().find_map(|line| line.strip_prefix(key));
    let frontend = find(b"  frontend=")?.split(|b| *b == b' ').next()?;
    let is_tunnel = find(b"  txn=")
        .is_none_or(|txn| txn.split(|b| *b == b' ').any(|word| word == b"rsp.st=MSG_TUNNEL"));
    // The first connection (`co0`) is the client's.
    let client = block.iter().find_map(|line| line.trim_ascii_start().strip_prefix(b"co0="));
    let mut said = client.into_iter().flat_map(|line| line.split(|b| *b == b' '));
    let shares_connection = !said.any(|word| matches!(word, b"mux=H1" | b"mux=PASS"));
    Some(Detail {
        pointer,
        id: id?,
        frontend: frontend.into(),
        source,
        started: Quarter::read(started)?,
        is_tunnel,
        shares_connection,
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // The text after the last line break is an incomplete line.
    let whole = memchr::memrchr(b'\n', text).and_then(|end| text.get(..end));
    whole.into_iter().flat_map(|text| text.split(|b| *b == b'\n'))
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// Parses `127.0.0.1:80` or `::1:80`.
fn address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let (ip, port) = text.rsplit_once(':')?;
    let ip: IpAddr = ip.parse().ok()?;
    // A socket for both families writes IPv4 addresses as IPv6.
    Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
}

/// Parses `1d2h`, `3m10s` or `5s` to the least and the greatest possible age. A negative age, by clocks that differ, is
/// zero.
fn duration(text: &[u8]) -> Option<(Duration, Duration)> {
    let (text, is_future) = text.strip_prefix(b"-").map_or((text, false), |rest| (rest, true));
    let (mut seconds, mut digits, mut unit_shown) = (0_u64, None, None);
    for byte in text {
        let unit = match byte {
            b'0'..=b'9' => {
                // Overflow makes the age unknown, not wrong.
                let more = digits.unwrap_or(0_u64).checked_mul(10)?;
                digits = Some(more.checked_add(u64::from(byte - b'0'))?);
                continue;
            }
            b'd' => 86_400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(digits.take()?.checked_mul(unit)?)?;
        unit_shown = Some(unit);
    }
    let most = seconds.checked_add(unit_shown.filter(|_| digits.is_none())?)?;
    let least = if is_future { 0 } else { seconds };
    Some((Duration::from_secs(least), Duration::from_secs(most)))
}

#[cfg(test)]
mod tests;
