//! AMX for machines without it: the kernel's own instructions are run, and those that this processor does not know are
//! read by a handler of the signal that they end in, which does what the manual says and goes on behind them
//! (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). On a machine with AMX they run as they are.

use std::cell::RefCell;
use std::ptr;

use libc::{c_int, c_void, greg_t, sigaction, siginfo_t, ucontext_t};

use super::{Kernel, tests};

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// The tile registers of a thread.
struct Tiles {
    /// The rows and the bytes in a row of each; none while no tile is configured.
    sizes: [(usize, usize); 8],
    bytes: [[[u8; ROW_BYTES]; ROWS]; 8],
    /// How many instructions of each kind were met.
    met: [u32; 6],
}

thread_local! {
    // Nothing is made or dropped when it is used first, so the handler may use it.
    static TILES: RefCell<Tiles> = const {
        RefCell::new(Tiles { sizes: [(0, 0); 8], bytes: [[[0; ROW_BYTES]; ROWS]; 8], met: [0; 6] })
    };
}

/// An instruction, with tiles by their numbers and addresses computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Instruction {
    Configure {
        from: usize,
    },
    Release,
    Zero {
        tile: usize,
    },
    Load {
        tile: usize,
        from: usize,
        stride: usize,
    },
    Store {
        tile: usize,
        to: usize,
        stride: usize,
    },
    /// `sum += left · right`.
    Multiply {
        sum: usize,
        left: usize,
        right: usize,
    },
}

use Instruction::{Configure, Load, Multiply, Release, Store, Zero};

/// The bytes of an instruction from the first on, one after the other.
struct Code {
    next: usize,
    length: usize,
}

impl Code {
    #[expect(unsafe_code, reason = "instructions lie in memory")]
    fn byte(&mut self) -> u8 {
        let at = ptr::with_exposed_provenance::<u8>(self.next + self.length);
        self.length += 1;
        // SAFETY: the processor has read an instruction from here, and no more is read than its first bytes say.
        unsafe { *at }
    }

    fn displacement(&mut self, bytes: usize) -> isize {
        let mut all = [0_u8; 8];
        for byte in &mut all[..bytes] {
            *byte = self.byte();
        }
        match bytes {
            1 => isize::from(all[0].cast_signed()),
            4 => i32::from_le_bytes([all[0], all[1], all[2], all[3]]) as isize,
            _ => 0,
        }
    }
}

/// The general registers as instructions count them.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Where a register lies in a context.
#[expect(clippy::cast_sign_loss, reason = "the C library numbers them from 0")]
fn place(register: c_int) -> usize {
    register as usize
}

fn register(values: &[greg_t], number: usize) -> usize {
    usize::from_ne_bytes(values[place(REGISTERS[number])].to_ne_bytes())
}

/// The address of a memory operand, and the stride that its index is, if it has one.
fn operand(
    code: &mut Code,
    values: &[greg_t],
    form: u8,
    [x, b]: [usize; 2],
) -> Option<(usize, usize)> {
    let (mut base, mut stride) = (usize::from(form & 7), 0);
    if base == 4 {
        let sib = code.byte();
        base = usize::from(sib & 7);
        let index = usize::from(sib >> 3 & 7) + 8 * x;
        if index != 4 {
            stride = register(values, index) << (sib >> 6);
        }
    } else if base == 5 && form >> 6 == 0 {
        // Relative to the next instruction, which these are not.
        return None;
    }
    let moved = match form >> 6 {
        0 if base == 5 => return None,
        0 => 0,
        1 => code.displacement(1),
        2 => code.displacement(4),
        _ => return None,
    };
    Some((register(values, base + 8 * b).wrapping_add_signed(moved), stride))
}

/// Reads one instruction, and how many bytes it takes.
fn decode(values: &[greg_t]) -> Option<(Instruction, usize)> {
    let next = usize::from_ne_bytes(values[place(libc::REG_RIP)].to_ne_bytes());
    let mut code = Code { next, length: 0 };
    // A VEX prefix of three bytes, for the opcodes that begin with 0F 38.
    if code.byte() != 0xc4 {
        return None;
    }
    let [first, second] = [code.byte(), code.byte()];
    if first & 0x1f != 2 || second & 0x84 != 0 {
        return None;
    }
    // These bits are stored inverted.
    let [r, x, b] = [7, 6, 5].map(|bit| usize::from(first >> bit & 1 == 0));
    let source = usize::from(!second >> 3 & 15);
    let (prefix, opcode, form) = (second & 3, code.byte(), code.byte());
    let (is_register, tile) = (form >> 6 == 3, usize::from(form >> 3 & 7));
    let last = usize::from(form & 7);
    let instruction = match (prefix, opcode, is_register) {
        (0, 0x49, true) if form == 0xc0 => Release,
        (0, 0x49, false) if tile == 0 => {
            Configure { from: operand(&mut code, values, form, [x, b])?.0 }
        }
        (3, 0x49, true) if last == 0 => Zero { tile },
        (3, 0x4b, false) => {
            let (from, stride) = operand(&mut code, values, form, [x, b])?;
            Load { tile, from, stride }
        }
        (2, 0x4b, false) => {
            let (to, stride) = operand(&mut code, values, form, [x, b])?;
            Store { tile, to, stride }
        }
        (2, 0x5c, true) => Multiply { sum: tile, left: last, right: source },
        _ => return None,
    };
    let plain = source == 0 || matches!(instruction, Multiply { .. });
    (plain && r == 0).then_some((instruction, code.length))
}

impl Tiles {
    /// Does what the instruction says; `None` where the processor would refuse it.
    fn run(&mut self, instruction: Instruction) -> Option<()> {
        match instruction {
            Configure { from } => {
                self.met[0] += 1;
                self.configure(read(from))?;
            }
            Release => {
                self.met[1] += 1;
                self.sizes = [(0, 0); 8];
            }
            Zero { tile } => {
                self.met[2] += 1;
                self.size(tile)?;
                self.bytes[tile] = [[0; ROW_BYTES]; ROWS];
            }
            Load { tile, from, stride } => {
                self.met[3] += 1;
                let (rows, bytes) = self.size(tile)?;
                self.bytes[tile] = [[0; ROW_BYTES]; ROWS];
                for row in 0..rows {
                    let there: [u8; ROW_BYTES] = read(from.wrapping_add(row.wrapping_mul(stride)));
                    self.bytes[tile][row][..bytes].copy_from_slice(&there[..bytes]);
                }
            }
            Store { tile, to, stride } => {
                self.met[4] += 1;
                let (rows, bytes) = self.size(tile)?;
                for row in 0..rows {
                    write(
                        to.wrapping_add(row.wrapping_mul(stride)),
                        &self.bytes[tile][row][..bytes],
                    );
                }
            }
            Multiply { sum, left, right } => {
                self.met[5] += 1;
                self.multiply(sum, left, right)?;
            }
        }
        Some(())
    }

    fn configure(&mut self, bytes: [u8; ROW_BYTES]) -> Option<()> {
        let empty = bytes[1..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]);
        if bytes[0] != 1 || empty.into_iter().any(|byte| *byte != 0) {
            return None;
        }
        for (tile, size) in self.sizes.iter_mut().enumerate() {
            let width = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
            *size = (usize::from(bytes[48 + tile]), usize::from(width));
            if size.0 > ROWS || size.1 > ROW_BYTES || (size.0 == 0) != (size.1 == 0) {
                return None;
            }
        }
        self.bytes = [[[0; ROW_BYTES]; ROWS]; 8];
        Some(())
    }

    /// The rows of a tile, and the bytes in each.
    fn size(&self, tile: usize) -> Option<(usize, usize)> {
        Some(self.sizes[tile]).filter(|size| size.0 > 0)
    }

    /// `TDPBF16PS`: the first and the second number of all pairs are summed apart, then both are added to the sum.
    fn multiply(&mut self, sum: usize, left: usize, right: usize) -> Option<()> {
        let ((rows, bytes), (left_rows, depth), (pairs, width)) =
            (self.size(sum)?, self.size(left)?, self.size(right)?);
        let distinct = sum != left && sum != right && left != right;
        if !distinct || rows != left_rows || depth != 4 * pairs || bytes != width {
            return None;
        }
        let number = |row: &[u8; ROW_BYTES], at: usize| {
            f32::from_bits(u32::from(u16::from_le_bytes([row[2 * at], row[2 * at + 1]])) << 16)
        };
        for row in 0..rows {
            for column in 0..bytes / 4 {
                let mut sums = [0.0_f32; 2];
                for pair in 0..pairs {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        let left = number(&self.bytes[left][row], 2 * pair + half);
                        let right = number(&self.bytes[right][pair], 2 * column + half);
                        *sum = left.mul_add(right, *sum);
                    }
                }
                let place = &mut self.bytes[sum][row][4 * column..][..4];
                let before = f32::from_le_bytes([place[0], place[1], place[2], place[3]]);
                place.copy_from_slice(&(before + (sums[0] + sums[1])).to_le_bytes());
            }
        }
        Some(())
    }
}

/// What an instruction reads: a row of a tile, or a configuration.
#[expect(unsafe_code, reason = "the address is the emulated instruction's own")]
fn read(from: usize) -> [u8; ROW_BYTES] {
    // SAFETY: the instruction would read these bytes itself; rows of the kernel's tiles are all whole.
    unsafe { ptr::with_exposed_provenance::<[u8; ROW_BYTES]>(from).read_unaligned() }
}

#[expect(unsafe_code, reason = "the address is the emulated instruction's own")]
fn write(to: usize, bytes: &[u8]) {
    // SAFETY: the instruction would write these bytes itself.
    unsafe {
        ptr::with_exposed_provenance_mut::<u8>(to)
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
}

/// Runs the instruction that the processor has refused, and goes on behind it. What is not AMX's ends the process as
/// it would without this.
#[expect(unsafe_code, reason = "a signal handler is given pointers")]
extern "C" fn on_refusal(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: a handler that was installed with `SA_SIGINFO` gets the thread's context, which nobody else has now.
    let values = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let done = decode(values).and_then(|(instruction, length)| {
        TILES.with_borrow_mut(|tiles| tiles.run(instruction)).map(|()| length)
    });
    match done {
        Some(length) => values[place(libc::REG_RIP)] += greg_t::try_from(length).unwrap_or(0),
        // SAFETY: the instruction is run again, and what it does by default then is to end the process.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

#[expect(unsafe_code, reason = "signal handlers are installed by the C library")]
fn install() {
    // SAFETY: all zeros are a valid `sigaction`, and the handler is of the kind that `SA_SIGINFO` names.
    let installed = unsafe {
        let mut action: sigaction = std::mem::zeroed();
        action.sa_sigaction = on_refusal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        sigaction(libc::SIGILL, &raw const action, ptr::null_mut())
    };
    assert_eq!(installed, 0);
}

#[test]
fn the_kernel_for_amx_sums_rounded_numbers() {
    let has_amx = Kernel::Amx.is_here();
    if !has_amx {
        install();
        tests::emulate();
    }
    tests::check(Kernel::Amx);
    let met = TILES.with_borrow(|tiles| tiles.met);
    assert!(has_amx || met.iter().all(|count| *count > 0), "each instruction was met: {met:?}");
}
