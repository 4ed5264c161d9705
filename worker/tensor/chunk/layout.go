package chunk

// Group tells how pages of the given size share chunks: a group of pages fills
// chunks whole chunks, stride bytes from page to page, a multiple of align. It
// is the smallest group that wastes at most a twelfth of its memory.
func Group(page, chunk, align int64) (pages, chunks int, stride int64) {
	page = (page + align - 1) / align * align
	for n := int64(1); ; n++ {
		room := n * chunk
		for most := room / page; most > 0 && room-most*page <= room/12; most-- {
			if room%(most*align) == 0 {
				return int(most), int(n), room / most
			}
		}
	}
}
