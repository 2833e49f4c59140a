//! How fast the store hashes a file that lies where it lies, such as a model's weights.
//!
//!     cargo bench --bench hashing
//!
//! Beside it: `b3sum` (the same hash, where it is installed), `sha256sum` and Python's `hashlib` (what
//! `huggingface_hub` checks downloads with). The file is in the page cache, so no disk is measured.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

mod measure;

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use artifacts::StatCache;
use clap::Parser;
use stages::seed::Draws;

use measure::{Contender, Report, Times, interleave, ratios};

const HASHLIB: &str = "import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())";

#[derive(Parser)]
struct Options {
    /// Rounds of turns
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// The size of the file, in MiB
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Print the table, and leave the one in `results` as it is
    #[arg(long)]
    dry: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    write(&path, options.size);
    let mut contenders = vec![Contender {
        name: "fedpipe, BLAKE3".to_owned(),
        turn: Box::new(|| {
            let start = Instant::now();
            // A cache that has not seen the file: it is mapped and hashed.
            StatCache::open(None).digest(&path).unwrap();
            start.elapsed().as_secs_f64()
        }),
    }];
    let commands: [(&str, &str, &[&str]); 3] = [
        ("`b3sum`, BLAKE3", "b3sum", &[]),
        ("`sha256sum`, SHA-256", "sha256sum", &[]),
        ("Python's `hashlib`, SHA-256", "python3", &["-c", HASHLIB]),
    ];
    let mut left_out = Vec::new();
    for (name, program, arguments) in commands {
        let path = path.as_path();
        let turn = move || {
            let start = Instant::now();
            let mut command = Command::new(program);
            let status = command.args(arguments).arg(path).stdout(Stdio::null()).status().ok()?;
            status.success().then(|| start.elapsed().as_secs_f64())
        };
        if turn().is_none() {
            left_out.push(program);
            continue;
        }
        let turn = Box::new(move || turn().expect("it ran before"));
        contenders.push(Contender { name: name.to_owned(), turn });
    }
    interleave(1, &mut contenders);
    let all = interleave(options.rounds, &mut contenders);

    let about = "Hashing a file that the system holds in memory. Medians, with quartiles; a ratio is that of turns of \
                 the same round, and below 1 fedpipe is faster.";
    let mut report = Report::new("hashing", about);
    report.fact(&format!("{} MiB, {} rounds of turns", options.size, options.rounds));
    if !left_out.is_empty() {
        report.fact(&format!("not installed here: {}", left_out.join(", ")));
    }
    let bytes = (options.size << 20) as f64;
    let row = |(at, times): (usize, &Times)| {
        let speed = bytes / times.spread().median / 1e9;
        [vec![times.name.clone(), format!("{speed:.2}")], ratios(&all, 1, at)].concat()
    };
    let rows: Vec<Vec<String>> = all.iter().enumerate().map(row).collect();
    report.table(&["side", "GB/s", "fedpipe to it, time"], &rows);
    report.finish(!options.dry);
}

/// Writes so many MiB, no two of them alike.
fn write(path: &Path, mebibytes: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut piece = vec![0; 1 << 20];
    Draws::named(1, "bench", &["hashing"]).fill(&mut piece);
    for number in 0..mebibytes {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&piece).unwrap();
    }
    file.flush().unwrap();
}
