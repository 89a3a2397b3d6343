use std::{
    io::Read as _,
    sync::{Mutex, PoisonError},
};

use flate2::read::GzDecoder;
use tokio::time::Instant;

use super::*;

/// Keeps what it takes, and when; takes nothing while it is told to.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    mode: Mode,
    tries: Vec<Instant>,
    taken: Vec<Vec<u64>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Takes,
    Fails,
    Stalls,
    Panics,
}

impl Collector {
    fn with<T>(&self, change: impl FnOnce(&mut Collected) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn become_(&self, mode: Mode) {
        self.with(|all| all.mode = mode);
    }

    fn taken(&self) -> Vec<Vec<u64>> {
        self.with(|all| all.taken.clone())
    }
}

#[async_trait]
impl Destination for Collector {
    async fn take(&self, chunk: Bytes) -> Result<(), UploadError> {
        let mode = self.with(|all| {
            all.tries.push(Instant::now());
            all.mode
        });
        match mode {
            Mode::Takes => {}
            Mode::Fails => return Err(UploadError("no".to_owned())),
            Mode::Panics => panic!("no"),
            Mode::Stalls => std::future::pending().await,
        }
        let mut text = String::new();
        GzDecoder::new(&*chunk).read_to_string(&mut text).unwrap();
        let items: Vec<(u64, String)> = serde_json::from_str(&text).unwrap();
        self.with(|all| all.taken.push(items.into_iter().map(|(number, _)| number).collect()));
        Ok(())
    }
}

fn settings() -> UploadSettings {
    UploadSettings {
        what: "test log",
        chunk_bytes: 1024,
        buffer_bytes: 1 << 20,
        buffer_items: 10_000,
        pace: Pace { min_delay: Duration::from_secs(300), max_delay: Duration::from_secs(600), random: || 0.5 },
    }
}

fn start(settings: UploadSettings) -> (Uploader, Collector) {
    let collector = Collector::default();
    (Uploader::start(settings, collector.clone(), &Handle::current()), collector)
}

/// `[number, filler]`, 100 bytes of it.
fn item(number: u64) -> Bytes {
    let start = format!("[{number},\"");
    format!("{start}{}\"]", "x".repeat(98 - start.len())).into()
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_out_when_the_delay_is_over_and_not_before() {
    let (uploader, collector) = start(settings());
    let begun = Instant::now();
    (0..3).for_each(|number| uploader.offer(item(number)));
    assert_eq!(uploader.metrics(), UploadMetrics { buffered: 3, buffered_bytes: 300, ..UploadMetrics::default() });
    sleep(Duration::from_secs(449)).await;
    assert!(collector.taken().is_empty());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(collector.taken(), [[0, 1, 2]]);
    assert_eq!(uploader.metrics(), UploadMetrics { uploaded: 3, chunks: 1, ..UploadMetrics::default() });
    sleep(Duration::from_secs(10_000)).await;
    assert_eq!(collector.with(|all| all.tries.clone()), [begun + Duration::from_secs(450)], "nothing is no chunk");
}

#[tokio::test(start_paused = true)]
async fn full_chunks_go_out_at_once_and_the_rest_waits() {
    let (uploader, collector) = start(settings());
    (0..200).for_each(|number| uploader.offer(item(number)));
    sleep(Duration::from_secs(1)).await;
    let taken = collector.taken().concat();
    assert_eq!(taken, (0..taken.len() as u64).collect::<Vec<_>>());
    let metrics = uploader.metrics();
    assert!(!taken.is_empty() && metrics.buffered > 0 && taken.len() + metrics.buffered == 200, "{metrics:?}");
    assert!(metrics.buffered_bytes < uploader.shared.full_at.load(Ordering::Relaxed), "{metrics:?}");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(collector.taken().concat().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_is_tried_again_ever_less_often_and_in_order() {
    let (uploader, collector) = start(settings());
    collector.become_(Mode::Fails);
    (0..3).for_each(|number| uploader.offer(item(number)));
    sleep(Duration::from_millis(450_500)).await;
    uploader.offer(item(3));
    let tries = collector.with(|all| all.tries.clone());
    let pauses: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    // The timer counts in milliseconds, and rounds up.
    assert_eq!(pauses, [100, 160], "{pauses:?}");
    assert_eq!(uploader.metrics().failures, 3);
    assert!(uploader.metrics().is_failing && uploader.metrics().buffered == 4);
    collector.become_(Mode::Takes);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(collector.taken(), [[0, 1, 2, 3]]);
    // A client that panics is one that fails.
    collector.become_(Mode::Panics);
    uploader.offer(item(4));
    sleep(Duration::from_millis(450_050)).await;
    assert!(uploader.metrics().is_failing);
    collector.become_(Mode::Takes);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(collector.taken().concat(), [0, 1, 2, 3, 4]);
    assert!(!uploader.metrics().is_failing);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_taken_the_oldest_are_lost_and_counted() {
    let (uploader, collector) = start(UploadSettings { buffer_items: 5, ..settings() });
    collector.become_(Mode::Fails);
    (0..5).for_each(|number| uploader.offer(item(number)));
    sleep(Duration::from_secs(460)).await;
    (5..8).for_each(|number| uploader.offer(item(number)));
    assert_eq!((uploader.metrics().buffered, uploader.metrics().overflowed), (5, 3));
    collector.become_(Mode::Takes);
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 0);
    assert_eq!(collector.taken().concat(), [3, 4, 5, 6, 7]);
    assert_eq!(uploader.metrics().uploaded, 5);
}

#[tokio::test(start_paused = true)]
async fn a_flush_sends_at_once_tries_again_and_gives_up_when_its_grace_is_over() {
    let (uploader, collector) = start(settings());
    (0..30).for_each(|number| uploader.offer(item(number)));
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 0);
    assert_eq!(collector.taken().concat(), (0..30).collect::<Vec<_>>());

    collector.become_(Mode::Fails);
    (30..33).for_each(|number| uploader.offer(item(number)));
    let tries = collector.with(|all| all.tries.len());
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 3);
    assert!(collector.with(|all| all.tries.len()) > tries + 2);

    // What was on its way when the grace was over is not lost.
    collector.become_(Mode::Stalls);
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 3);
    assert_eq!(uploader.metrics().buffered, 3);
    collector.become_(Mode::Takes);
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 0);
    assert_eq!(collector.taken().concat(), (0..33).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_flush_does_not_take_what_is_under_way_for_sent() {
    let (uploader, collector) = start(settings());
    collector.become_(Mode::Stalls);
    uploader.offer(item(0));
    sleep(Duration::from_secs(460)).await;
    assert_eq!((collector.with(|all| all.tries.len()), uploader.metrics().buffered), (1, 1));
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_fits_into_no_chunk_is_dropped_and_counted() {
    let (uploader, collector) = start(settings());
    let noise: String =
        (0..3_000_u32).map(|n| char::from(b'!' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 90)).collect();
    uploader.offer(item(0));
    uploader.offer(serde_json::to_vec(&(1, noise)).unwrap().into());
    uploader.offer(item(2));
    assert_eq!(uploader.flush(Duration::from_secs(1)).await, 0);
    assert_eq!(collector.taken().concat(), [0, 2]);
    assert_eq!((uploader.metrics().too_large, uploader.metrics().uploaded), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_owner() {
    let (uploader, collector) = start(settings());
    uploader.offer(item(0));
    tokio::task::yield_now().await;
    let shared = Arc::downgrade(&uploader.shared);
    drop(uploader);
    sleep(Duration::from_secs(10_000)).await;
    assert!(shared.upgrade().is_none() && collector.with(|all| all.tries.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_ends_with_its_owner() {
    let (uploader, collector) = start(settings());
    collector.become_(Mode::Stalls);
    uploader.offer(item(0));
    sleep(Duration::from_secs(460)).await;
    assert_eq!(collector.with(|all| all.tries.len()), 1);
    drop(uploader);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&collector.0), 1, "nobody sends any more");
}
