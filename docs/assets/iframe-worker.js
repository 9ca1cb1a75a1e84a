// Search reads its index in a worker, and a page that was opened from the disk may have none: there a frame works in its place.
